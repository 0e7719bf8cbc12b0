//! Runs the CUDA texts on the CPU, by the emulator in `tests/cuda_emulator/`.

use crate::gpu::source::Kernel;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// What nobody has written yet: all ones, as the emulator leaves it, and a NaN in every format.
pub const UNWRITTEN: u8 = 0xff;

/// The emulator, built with some kernels.
pub struct Emulator {
    folder: TempDir,
}

/// How a kernel is launched.
pub struct Launch {
    pub blocks: usize,
    /// Later threads run before earlier ones.
    pub descending: bool,
}

/// The C++ compiler, unless there is none and that is no failure.
fn compiler() -> Option<String> {
    let cxx = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let version = Command::new(&cxx).arg("--version").output();
    if version.is_ok_and(|output| output.status.success()) {
        return Some(cxx);
    }
    assert!(std::env::var_os("AIOS_REQUIRE_CXX").is_none(), "no {cxx}");
    println!("skipped: no C++ compiler ({cxx})");
    None
}

impl Emulator {
    /// With these kernels, whose halves are in format number `element`; `None` without a compiler.
    pub fn build(kernels: &[Kernel], element: usize) -> Option<Self> {
        let cxx = compiler()?;
        let emulator = Self {
            folder: TempDir::new().unwrap(),
        };
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cuda_emulator");
        let mut command = Command::new(cxx);
        command
            .args(["-std=c++17", "-O1", "-ffp-contract=off"])
            // The compiler knows neither CUDA's pragmas nor what each kernel leaves unused.
            .arg("-w")
            .arg("-I")
            .arg(&sources)
            .arg("-o")
            .arg(emulator.folder.path().join("emulator"))
            .arg(sources.join("emulator.cpp"));
        for kernel in kernels {
            // The element has to be known where halves are taken apart.
            let head = format!("#define ELEMENT {element}\n#include \"cuda.h\"\n");
            let path = emulator.folder.path().join(format!("{}.cpp", kernel.name));
            std::fs::write(&path, head + &shared(&kernel.cuda_text())).unwrap();
            command.arg(path);
        }
        let output = command.output().unwrap();
        let messages = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{messages}");
        Some(emulator)
    }

    /// Launch with these buffers of `memory` as arguments; those of `written` get new contents.
    pub fn launch(
        &self,
        kernel: &Kernel,
        launch: &Launch,
        memory: &mut Memory,
        (read, written): (&[usize], &[usize]),
        info: &[u32],
    ) {
        let [input, output] = ["input", "output"].map(|name| self.folder.path().join(name));
        std::fs::write(&input, memory.launch_file(read, written, info)).unwrap();
        let status = Command::new(self.folder.path().join("emulator"))
            .arg(kernel.name)
            .arg(launch.blocks.to_string())
            .arg(kernel.threads.to_string())
            .arg(kernel.cuda_shared_bytes.to_string())
            .arg(u8::from(launch.descending).to_string())
            .args([&input, &output])
            .status();
        assert!(status.unwrap().success(), "{} failed", kernel.name);
        memory.take(written, &std::fs::read(&output).unwrap());
    }
}

/// What a block's threads share is one variable of all fibers. What has no size stays declared outside.
fn shared(text: &str) -> String {
    text.replace("\n    __shared__ ", "\n    static ")
}

/// Buffers of bytes, by number.
#[derive(Default)]
pub struct Memory {
    pub buffers: Vec<Vec<u8>>,
}

impl Memory {
    /// A new buffer that nobody has written to.
    pub fn add(&mut self, bytes: usize) -> usize {
        self.put(vec![UNWRITTEN; bytes])
    }

    /// A new buffer with these contents.
    pub fn put(&mut self, contents: Vec<u8>) -> usize {
        self.buffers.push(contents);
        self.buffers.len() - 1
    }

    fn launch_file(&self, read: &[usize], written: &[usize], info: &[u32]) -> Vec<u8> {
        let info: Vec<u8> = info.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut words = vec![];
        let mut put = |n: usize, bytes: &[u8]| {
            words.extend((n as u64).to_ne_bytes());
            words.extend(bytes);
        };
        put(self.buffers.len() + 1, &[]);
        for (i, buffer) in self.buffers.iter().chain([&info]).enumerate() {
            put(buffer.len(), &[]);
            put(usize::from(written.contains(&i)), buffer);
        }
        let arguments = [read, written, &[self.buffers.len()]].concat();
        put(arguments.len(), &[]);
        for argument in arguments {
            put(argument, &[]);
        }
        words
    }

    fn take(&mut self, written: &[usize], mut bytes: &[u8]) {
        for (i, buffer) in self.buffers.iter_mut().enumerate() {
            if written.contains(&i) {
                let (own, rest) = bytes.split_at(buffer.len());
                buffer.copy_from_slice(own);
                bytes = rest;
            }
        }
        assert!(bytes.is_empty());
    }
}
