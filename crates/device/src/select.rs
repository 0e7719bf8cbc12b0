//! Which device a run uses: CUDA before a real GPU through wgpu before the CPU, unless named; its plain reference where
//! nothing else works.

use crate::{Absence, Adapter, Class, Probe, cpu, cuda, graphics, ndarray};
use aios_base::config::DeviceChoice;
use aios_base::error::{Error, Result};

/// The device a run uses, and why that one.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// The device, with the runtime's name for it in `selected`.
    pub adapter: Adapter,
    /// Why it was picked and why better ones were passed over, for the banner and the metrics.
    pub reason: String,
}

/// Finds the device `choice` asks for, probing no more than that takes.
///
/// # Errors
/// Invalid if a device named on the command line is missing or unusable; `auto` finds the CPU at least.
pub fn select(choice: &DeviceChoice) -> Result<Selection> {
    select_except(choice, &[])
}

/// The same as if these, which turned out not to work, were not there.
///
/// # Errors
/// As [`select`], and of `auto` if none is left.
pub fn select_except(choice: &DeviceChoice, failed: &[Adapter]) -> Result<Selection> {
    let probes = Probes {
        cpu: &|| without(failed, Ok(vec![cpu::adapter()])),
        cuda: &|| without(failed, cuda::probe()),
        wgpu: &|| without(failed, graphics::probe()),
        ndarray: &|| without(failed, ndarray::probe()),
    };
    choose(choice, &probes)
}

/// Numbers of the real GPUs that can be used, by how they are driven.
pub struct Gpus {
    pub cuda: Vec<usize>,
    pub wgpu: Vec<usize>,
}

/// Those of this host.
pub fn gpus() -> Gpus {
    let usable = |probe: Probe| {
        let all = probe.unwrap_or_default().into_iter();
        let usable = all.filter(|gpu| gpu.class.is_real_gpu() && gpu.problem.is_none());
        usable.map(|gpu| gpu.index).collect()
    };
    Gpus {
        cuda: usable(cuda::probe()),
        wgpu: usable(graphics::probe()),
    }
}

fn without(failed: &[Adapter], probe: Probe) -> Probe {
    let works = |adapter: &Adapter| failed.iter().all(|f| f.flag() != adapter.flag());
    let left: Vec<Adapter> = probe?.into_iter().filter(works).collect();
    match left.is_empty() && !failed.is_empty() {
        true => Err(Absence {
            reason: "what there is does not work".to_owned(),
            remedy: "see above".to_owned(),
        }),
        false => Ok(left),
    }
}

/// Where devices are looked for; each is asked only if the ones before do not do.
pub(super) struct Probes<'a> {
    pub cpu: &'a dyn Fn() -> Probe,
    pub cuda: &'a dyn Fn() -> Probe,
    pub wgpu: &'a dyn Fn() -> Probe,
    pub ndarray: &'a dyn Fn() -> Probe,
}

/// [`select`] over given probes, so that the rules can be told apart from the machine.
pub(super) fn choose(choice: &DeviceChoice, probes: &Probes) -> Result<Selection> {
    match *choice {
        DeviceChoice::Cpu => numbered("cpu", 0, (probes.cpu)()),
        DeviceChoice::Ndarray => numbered("ndarray", 0, (probes.ndarray)()),
        DeviceChoice::Cuda(index) => numbered("cuda", index, (probes.cuda)()),
        DeviceChoice::Wgpu(Some(index)) => numbered("wgpu", index, (probes.wgpu)()),
        DeviceChoice::Wgpu(None) => best_graphics((probes.wgpu)()),
        DeviceChoice::Auto => automatic(probes),
    }
}

fn because(adapter: Adapter, reason: impl Into<String>) -> Selection {
    Selection {
        adapter,
        reason: reason.into(),
    }
}

fn numbered(kind: &str, index: usize, probe: Probe) -> Result<Selection> {
    let adapters = probe.map_err(|absence| unavailable(kind, &absence.to_string()))?;
    let count = adapters.len();
    let Some(adapter) = adapters.into_iter().nth(index) else {
        return Err(Error::invalid(format!(
            "--device {kind}:{index}: no such device, they are numbered from 0 and there is {count}; `aios devices` lists them"
        )));
    };
    match &adapter.problem {
        Some(problem) => Err(unavailable(kind, &format!("{}: {problem}", adapter.flag()))),
        None => Ok(because(adapter, "asked for")),
    }
}

fn best_graphics(probe: Probe) -> Result<Selection> {
    let adapters = probe.map_err(|absence| unavailable("wgpu", &absence.to_string()))?;
    let problem = first_problem(&adapters);
    let Some(adapter) = best(adapters) else {
        return Err(unavailable("wgpu", &problem));
    };
    let reason = match adapter.class {
        Class::Software => "asked for; no real GPU is there, so this is a slow software renderer",
        _ => "asked for; the best adapter",
    };
    Ok(because(adapter, reason))
}

fn unavailable(kind: &str, reason: &str) -> Error {
    Error::invalid(format!(
        "--device {kind} is not available: {reason}; or use --device auto"
    ))
}

fn automatic(probes: &Probes) -> Result<Selection> {
    let no_cuda = match best_real((probes.cuda)()) {
        Ok(adapter) => return Ok(because(adapter, "auto: CUDA comes first")),
        Err(reason) => reason,
    };
    let no_gpu = match best_real((probes.wgpu)()) {
        Ok(adapter) => return Ok(because(adapter, format!("auto: no CUDA: {no_cuda}"))),
        Err(reason) => reason,
    };
    let why = format!("auto: no CUDA: {no_cuda}; no GPU through wgpu: {no_gpu}");
    let no_cpu = match the_host((probes.cpu)()) {
        Ok(adapter) => return Ok(because(adapter, why)),
        Err(reason) => reason,
    };
    let why = format!("{why}; not the CPU's kernels: {no_cpu}");
    match the_host((probes.ndarray)()) {
        Ok(adapter) => Ok(because(adapter, why)),
        Err(reason) => Err(Error::failed(format!(
            "--device {why}; not ndarray: {reason}"
        ))),
    }
}

/// The host's CPU by one of its backends, of which there is one each.
fn the_host(probe: Probe) -> Result<Adapter, String> {
    let adapters = probe.map_err(|absence| absence.reason)?;
    let problem = first_problem(&adapters);
    best(adapters).ok_or(problem)
}

/// The best usable GPU, or why there is none.
fn best_real(probe: Probe) -> Result<Adapter, String> {
    let adapters = probe.map_err(|absence| absence.reason)?;
    let (real, software): (Vec<_>, Vec<_>) =
        adapters.into_iter().partition(|a| a.class.is_real_gpu());
    let problem = match software.first() {
        Some(renderer) if real.is_empty() => format!(
            "only the software renderer {}, which has to be named: --device wgpu",
            renderer.name
        ),
        _ => first_problem(&real),
    };
    best(real).ok_or(problem)
}

fn first_problem(adapters: &[Adapter]) -> String {
    adapters
        .iter()
        .find_map(|adapter| Some(format!("{}: {}", adapter.flag(), adapter.problem.as_ref()?)))
        .unwrap_or_default()
}

/// The usable adapter of the best class; among equals the driver's first.
fn best(adapters: Vec<Adapter>) -> Option<Adapter> {
    adapters
        .into_iter()
        .filter(|adapter| adapter.problem.is_none())
        .min_by_key(|adapter| match adapter.class {
            Class::Discrete => 0,
            Class::Integrated => 1,
            Class::Virtual => 2,
            Class::Other => 3,
            Class::Software | Class::Host => 4,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, Selected};
    use aios_base::execution::Kind;

    fn choose(
        choice: &DeviceChoice,
        cpu: fn() -> Adapter,
        cuda: impl Fn() -> Probe,
        wgpu: impl Fn() -> Probe,
    ) -> Result<Selection> {
        let probes = Probes {
            cpu: &|| Ok(vec![cpu()]),
            cuda: &cuda,
            wgpu: &wgpu,
            ndarray: &unexpected,
        };
        super::choose(choice, &probes)
    }

    #[test]
    fn what_failed_is_left_out() {
        let both = || graphics(&[Class::Discrete, Class::Integrated]);
        let failed = both().expect("two");
        let left = without(&failed[..1], both()).expect("one");
        assert_eq!(left, failed[1..]);
        let probe = || without(&failed, both());
        let picked = choose(&DeviceChoice::Auto, host, absent, probe).expect("cpu");
        assert_eq!(picked.adapter, host());
        assert!(picked.reason.contains("does not work"), "{}", picked.reason);
    }

    fn without_any(ndarray: &dyn Fn() -> Probe) -> Result<Selection> {
        let probes = Probes {
            cpu: &|| without(&[host()], Ok(vec![host()])),
            cuda: &absent,
            wgpu: &absent,
            ndarray,
        };
        super::choose(&DeviceChoice::Auto, &probes)
    }

    #[test]
    fn auto_goes_past_a_cpu_that_failed_to_the_reference() {
        let reference = || Ok(vec![adapter(Kind::Ndarray, 0, Class::Host)]);
        let picked = without_any(&reference).expect("ndarray");
        assert_eq!(picked.adapter.flag(), "ndarray");
        assert!(picked.reason.contains("does not work"), "{}", picked.reason);
    }

    #[test]
    fn auto_says_that_nothing_is_left() {
        let error = without_any(&absent).unwrap_err().to_string();
        for word in ["no CUDA", "no GPU", "not the CPU", "not ndarray: not there"] {
            assert!(error.contains(word), "{error}");
        }
    }

    fn adapter(kind: Kind, index: usize, class: Class) -> Adapter {
        Adapter {
            kind,
            index,
            name: format!("{} {}", kind.as_str(), class.as_str()),
            api: String::new(),
            driver: String::new(),
            class,
            memory_bytes: None,
            dtypes: vec!["f32"],
            emulated_dtypes: Vec::new(),
            attention: kind.flash_attention(),
            limits: Limits::default(),
            problem: None,
            selected: Selected::Cpu,
        }
    }

    fn host() -> Adapter {
        adapter(Kind::Cpu, 0, Class::Host)
    }

    fn graphics(classes: &[Class]) -> Probe {
        let numbered = classes.iter().enumerate();
        Ok(numbered
            .map(|(i, class)| adapter(Kind::Wgpu, i, *class))
            .collect())
    }

    fn one_cuda() -> Probe {
        Ok(vec![adapter(Kind::Cuda, 0, Class::Discrete)])
    }

    fn absent() -> Probe {
        Err(Absence {
            reason: "not there".to_owned(),
            remedy: "buy one".to_owned(),
        })
    }

    fn unexpected() -> Probe {
        panic!("probed without need")
    }

    #[test]
    fn cpu_probes_no_gpu() {
        let picked = choose(&DeviceChoice::Cpu, host, unexpected, unexpected).expect("cpu");
        assert_eq!(picked.adapter, host());
    }

    #[test]
    fn auto_stops_at_cuda() {
        let picked = choose(&DeviceChoice::Auto, host, one_cuda, unexpected).expect("cuda");
        assert_eq!(picked.adapter.flag(), "cuda:0");
    }

    #[test]
    fn auto_prefers_the_discrete_gpu_to_earlier_adapters() {
        let classes = [Class::Software, Class::Integrated, Class::Discrete];
        let picked = choose(&DeviceChoice::Auto, host, absent, || graphics(&classes)).expect("gpu");
        assert_eq!(picked.adapter.flag(), "wgpu:2");
        assert_eq!(picked.reason, "auto: no CUDA: not there");
    }

    #[test]
    fn auto_leaves_a_software_renderer_for_the_cpu() {
        let probe = || graphics(&[Class::Software]);
        let picked = choose(&DeviceChoice::Auto, host, absent, probe).expect("cpu");
        assert_eq!(picked.adapter, host());
        assert!(picked.reason.contains("software renderer"));
    }

    #[test]
    fn auto_says_why_cuda_is_unusable() {
        let broken = || {
            let mut adapter = adapter(Kind::Cuda, 0, Class::Discrete);
            adapter.problem = Some("NVRTC is missing".to_owned());
            Ok(vec![adapter])
        };
        let picked = choose(&DeviceChoice::Auto, host, broken, absent).expect("cpu");
        let expected = "auto: no CUDA: cuda:0: NVRTC is missing; no GPU through wgpu: not there";
        assert_eq!(picked.reason, expected);
    }

    #[test]
    fn naming_wgpu_accepts_a_software_renderer_and_says_so() {
        let probe = || graphics(&[Class::Software]);
        let choice = DeviceChoice::Wgpu(None);
        let picked = choose(&choice, host, unexpected, probe).expect("software");
        assert_eq!(picked.adapter.flag(), "wgpu:0");
        assert!(picked.reason.contains("slow software renderer"));
    }

    #[test]
    fn number_past_the_last_device_is_an_argument_error() {
        let error = choose(&DeviceChoice::Cuda(3), host, one_cuda, unexpected).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error
                .to_string()
                .starts_with("--device cuda:3: no such device"),
            "{error}"
        );
    }

    #[test]
    fn missing_kind_is_an_argument_error_with_a_way_out() {
        let error = choose(&DeviceChoice::Cuda(0), host, absent, unexpected).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(
            error.to_string(),
            "--device cuda is not available: not there; buy one; or use --device auto"
        );
    }
}
