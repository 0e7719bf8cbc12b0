//! What compiles kernels at run time: NVIDIA's NVRTC and the headers that kernels include.

use std::path::{Path, PathBuf};

use cubecl::cuda::install;
use cudarc::nvrtc::sys::{self, nvrtcResult::NVRTC_SUCCESS as SUCCESS};

use aios_base::nvidia;

/// The variable that names folders of libraries.
pub(super) const LIBRARY_PATH: &str = if cfg!(windows) {
    "PATH"
} else {
    "LD_LIBRARY_PATH"
};

/// What keeps kernels from being compiled at run time, if anything: the compiler library or the
/// headers every kernel includes.
pub(super) fn problem(driver: (u32, u32)) -> Option<String> {
    let root = install::cuda_path();
    // SAFETY: loads a shared library and unloads it again; NVRTC has no unsafe constructor.
    if !unsafe { sys::is_culib_present() } {
        return Some(nvrtc_missing(root.as_deref(), driver));
    }
    newer_than_driver(nvrtc_version(), driver).or_else(|| headers_problem(root.as_deref()))
}

/// The compiler's version, as (major, minor); only to be asked where it is there.
pub(super) fn nvrtc_version() -> (u32, u32) {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: writes two integers; the library was just found.
    let _ = unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    let number = |value| u32::try_from(value).unwrap_or(0);
    (number(major), number(minor))
}

fn nvrtc_missing(root: Option<&Path>, driver: (u32, u32)) -> String {
    if let Some(folder) = root.and_then(nvrtc_folder) {
        return format!(
            "NVRTC, CUDA's run-time compiler, lies in {} but not on the library path; add that folder to {LIBRARY_PATH}",
            folder.display()
        );
    }
    let library = nvidia::NVRTC.join(", ");
    // An older driver refuses what the newest compiler writes.
    let version = match driver {
        (12, minor) => format!("==12.{minor}.*"),
        _ => String::new(),
    };
    let searched = match std::env::var(LIBRARY_PATH) {
        Ok(path) if !path.is_empty() => format!("{LIBRARY_PATH}={path}"),
        _ => format!("{LIBRARY_PATH} is unset"),
    };
    format!(
        "NVRTC, CUDA's run-time compiler, is missing (looked for {library} on the system's library path; {searched}); \
         install the CUDA toolkit, or `pip install nvidia-cuda-nvrtc-cu12{version}` and add its lib folder to {LIBRARY_PATH}"
    )
}

/// The toolkit's folder that holds NVRTC, if it is there at all.
fn nvrtc_folder(root: &Path) -> Option<PathBuf> {
    ["lib64", "lib", "bin", "targets/x86_64-linux/lib"]
        .iter()
        .map(|folder| root.join(folder))
        .find(|folder| holds_nvrtc(folder))
}

fn holds_nvrtc(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libnvrtc.so") || name.starts_with("nvrtc64_")
        })
    })
}

/// A driver refuses code in a newer version of PTX than its own, and NVRTC always writes its newest.
fn newer_than_driver(nvrtc: (u32, u32), driver: (u32, u32)) -> Option<String> {
    // 12.5 and 12.6 write the same version of PTX.
    let nvrtc_needs = if nvrtc == (12, 6) { (12, 5) } else { nvrtc };
    (nvrtc_needs > driver).then(|| {
        format!(
            "NVRTC {0}.{1} is newer than the driver, which serves CUDA {2}.{3} at most; update the driver or install NVRTC {2}.{3}",
            nvrtc.0, nvrtc.1, driver.0, driver.1
        )
    })
}

/// Whether the compiler writes code for a GPU of this compute capability, and if not, why.
///
/// Only to be asked where [`problem`] has found none.
pub(super) fn lacks(capability: (u32, u32)) -> Option<String> {
    unknown_to(nvrtc_version(), &known_architectures()?, capability)
}

/// Compute capabilities, such as 90 for 9.0; `None` if this version cannot be asked.
fn known_architectures() -> Option<Vec<u32>> {
    let mut count = 0;
    // SAFETY: writes one integer; the library was found.
    let asked = unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) };
    let count = usize::try_from(count).ok().filter(|_| asked == SUCCESS)?;
    let mut known = vec![0; count];
    // SAFETY: writes as many integers as it just said.
    let asked = unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) };
    let known = known.into_iter().filter_map(|known| known.try_into().ok());
    (asked == SUCCESS).then(|| known.collect())
}

/// The toolkits that first knew newer GPUs.
const SINCE: [((u32, u32), (u32, u32)); 5] = [
    ((8, 9), (11, 8)),
    ((9, 0), (11, 8)),
    ((10, 0), (12, 8)),
    ((10, 3), (12, 9)),
    ((12, 0), (12, 8)),
];

fn unknown_to(nvrtc: (u32, u32), known: &[u32], (major, minor): (u32, u32)) -> Option<String> {
    let wanted = 10 * major + minor;
    if known.contains(&wanted) {
        return None;
    }
    let (newest, oldest) = (known.iter().max()?, known.iter().min()?);
    let compiler = format!("NVRTC {}.{}, CUDA's run-time compiler,", nvrtc.0, nvrtc.1);
    if wanted < *oldest {
        return Some(format!(
            "{compiler} no longer knows this GPU's generation, sm_{wanted}, but sm_{oldest} and later; install an older one, \
             such as `pip install nvidia-cuda-nvrtc-cu12`"
        ));
    }
    let since = SINCE.iter().rev().find(|(gpu, _)| *gpu <= (major, minor));
    let version = since.map_or(String::new(), |(_, (major, minor))| {
        format!(" of CUDA {major}.{minor} or later")
    });
    Some(format!(
        "{compiler} is too old for this GPU's generation, sm_{wanted}: the newest that it knows is sm_{newest}; install \
         that{version}, and a driver that serves it"
    ))
}

/// What kernels include, and the package of PyPI's that has it.
const HEADERS: [(&str, &str); 6] = [
    ("cuda_runtime.h", "nvidia-cuda-runtime-cu12"),
    ("cuda_fp16.h", "nvidia-cuda-runtime-cu12"),
    ("cuda_bf16.h", "nvidia-cuda-runtime-cu12"),
    ("mma.h", "nvidia-cuda-runtime-cu12"),
    // Included by mma.h.
    ("crt/mma.h", "nvidia-cuda-nvcc-cu12"),
    // Included by cooperative_groups.h.
    ("nv/target", "nvidia-cuda-cccl-cu12"),
];

fn headers_problem(root: Option<&Path>) -> Option<String> {
    let packages = "nvidia-cuda-runtime-cu12 nvidia-cuda-nvcc-cu12 nvidia-cuda-cccl-cu12";
    let Some(root) = root else {
        return Some(format!(
            "the CUDA headers are missing (looked in /usr/local/cuda, /opt/cuda and beside /usr/bin/nvcc); install the \
             CUDA toolkit, or `pip install {packages}` and set CUDA_PATH to a folder whose include folder has all of theirs"
        ));
    };
    let include = root.join("include");
    // The runtime looks in both.
    let is_there = |header: &str| {
        [&include, &include.join("cccl")]
            .iter()
            .any(|i| i.join(header).exists())
    };
    let (header, package) = HEADERS.iter().find(|(header, _)| !is_there(header))?;
    Some(format!(
        "the CUDA headers are missing ({} does not exist); install the CUDA toolkit or set CUDA_PATH to its folder, or add \
         the include folder of PyPI's {package} to that one",
        include.join(header).display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiler_newer_than_the_driver_is_a_problem() {
        assert_eq!(newer_than_driver((12, 4), (12, 4)), None);
        assert_eq!(newer_than_driver((12, 9), (13, 0)), None);
        assert_eq!(newer_than_driver((12, 6), (12, 5)), None);
        let problem = newer_than_driver((12, 9), (12, 4)).expect("a problem");
        assert!(problem.contains("NVRTC 12.9"), "{problem}");
        assert!(problem.ends_with("install NVRTC 12.4"), "{problem}");
    }

    #[test]
    fn a_gpu_that_the_compiler_does_not_know_is_a_problem() {
        let known = [50, 75, 80, 86, 89, 90];
        assert_eq!(unknown_to((12, 4), &known, (9, 0)), None);
        let newer = unknown_to((12, 4), &known, (12, 0)).expect("a problem");
        for words in ["NVRTC 12.4", "sm_120", "sm_90;", "CUDA 12.8 or later"] {
            assert!(newer.contains(words), "{newer}");
        }
        let later = unknown_to((13, 0), &[75, 90, 120], (7, 0)).expect("a problem");
        for words in ["NVRTC 13.0", "no longer", "sm_70", "sm_75 and later"] {
            assert!(later.contains(words), "{later}");
        }
        assert_eq!(unknown_to((11, 0), &[], (9, 0)), None);
    }

    #[test]
    fn each_header_is_looked_for() {
        let root = tempfile::tempdir().expect("a folder");
        let include = root.path().join("include");
        for (header, package) in HEADERS {
            let problem = headers_problem(Some(root.path())).expect("a problem");
            assert!(problem.contains(package), "{problem}");
            let shown = include.join(header).display().to_string();
            assert!(problem.contains(&shown), "{problem}");
            let file = match header {
                "nv/target" => include.join("cccl").join(header),
                _ => include.join(header),
            };
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            std::fs::write(file, "").expect("a file");
        }
        assert_eq!(headers_problem(Some(root.path())), None);
    }

    #[test]
    fn missing_headers_name_the_file() {
        let problem = headers_problem(Some(Path::new("/nowhere"))).expect("a problem");
        assert!(problem.contains("cuda_runtime.h"), "{problem}");
        assert!(problem.contains("CUDA_PATH"), "{problem}");
    }

    #[test]
    fn missing_compiler_says_how_to_get_it() {
        let problem = nvrtc_missing(None, (12, 4));
        let install = "pip install nvidia-cuda-nvrtc-cu12==12.4.*";
        assert!(problem.contains(install), "{problem}");
        assert!(problem.contains(LIBRARY_PATH), "{problem}");
    }
}
