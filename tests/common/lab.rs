//! Runs of the program, each in a folder of its own, with a model so small that a step takes
//! milliseconds.

use super::{program, root};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Far more than any run here needs, even where software Vulkan has never tuned a product before.
const PATIENCE: Duration = Duration::from_secs(900);

/// What every tiny run has in common.
const TINY: &str = "train --quiet --device cpu --no-amp --model tokenizer.json \
    --dataset-file text.txt --hidden-size 32 --num-heads 2 --h-layers 1 --l-layers 1 \
    --max-seq-len 16 --batch-size 2 --bundle-dir brains";

/// A folder with a byte tokenizer (`tokenizer.json`) and a page of text (`text.txt`), in which the
/// program runs.
pub struct Lab {
    dir: TempDir,
}

impl Lab {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = root().join("tests/data");
        for name in ["tokenizer.json", "text.txt"] {
            fs::copy(data.join(name), dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.path(name), contents).unwrap();
    }

    /// Run a shell script in the folder, which has to succeed.
    #[cfg(unix)]
    #[track_caller]
    pub fn shell(&self, script: &str) {
        let mut shell = Command::new("sh");
        shell.args(["-ec", script]).current_dir(self.dir.path());
        assert!(shell.status().unwrap().success(), "{script}");
    }

    /// Folder of the bundle of this name.
    pub fn brain(&self, name: &str) -> PathBuf {
        self.path("brains").join(name)
    }

    /// The program with arguments separated by blanks. Its caches lie in the lab, and it stays
    /// off the network.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments.split_whitespace())
            .current_dir(self.dir.path())
            .env("AIOS_CACHE_DIR", self.path("cache"))
            .env("HF_HOME", self.path("hub"))
            .env("HF_HUB_OFFLINE", "1")
            .env("RUST_BACKTRACE", "1")
            .env_remove("AIOS_LOG");
        command
    }

    /// The same with an address space of so many KiB, beyond which the system refuses memory.
    #[cfg(target_os = "linux")]
    pub fn run_within(&self, kib: u64, arguments: &str) -> Output {
        self.run_behind(&format!("ulimit -v {kib}"), arguments)
    }

    /// The same after some shell commands, which hold for it too.
    #[cfg(unix)]
    pub fn run_behind(&self, commands: &str, arguments: &str) -> Output {
        let program = self.command(arguments);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("{commands}; exec \"$0\" \"$@\"")])
            .arg(program.get_program())
            .args(program.get_args());
        finish(self.like(shell, &program))
    }

    /// A command in the folder and the environment of another one.
    #[cfg(unix)]
    pub fn like(&self, mut command: Command, other: &Command) -> Command {
        command.current_dir(self.dir.path());
        for (name, value) in other.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    pub fn run(&self, arguments: &str) -> Output {
        finish(self.command(arguments))
    }

    /// As [`Lab::run`], for what has to succeed: its standard output.
    #[track_caller]
    pub fn succeed(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments}: {}", stderr(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Arguments of a tiny run that saves in `brains/NAME` and logs to `NAME.jsonl`.
    pub fn tiny(name: &str, flags: &str) -> String {
        format!("{TINY} --brain-name {name} --log-file {name}.jsonl {flags}")
    }

    /// A tiny run, whatever becomes of it.
    pub fn try_train(&self, name: &str, flags: &str) -> Output {
        self.run(&Self::tiny(name, flags))
    }

    /// A tiny run that has to succeed: what it logged, with what runs of this name logged before.
    #[track_caller]
    pub fn train(&self, name: &str, flags: &str) -> Events {
        self.succeed(&Self::tiny(name, flags));
        self.events(name)
    }

    /// The bundle `from` once more as `to`, whole and with valid hashes, after `change` of the newest checkpoint's
    /// `trainer.json` and `config.toml`.
    pub fn altered(&self, from: &str, to: &str, change: impl FnOnce(&mut Value, &mut String)) {
        let to = self.brain(to);
        copy_folder(&self.brain(from), &to);
        fs::remove_file(to.join("manifest.json")).unwrap();
        let checkpoints = fs::read_dir(to.join("checkpoints")).unwrap();
        let folder = checkpoints
            .map(|entry| entry.unwrap().path())
            .max()
            .unwrap();
        let [trainer_json, config_toml] =
            ["trainer.json", "config.toml"].map(|name| folder.join(name));
        let mut trainer = serde_json::from_slice(&fs::read(&trainer_json).unwrap()).unwrap();
        let mut config = fs::read_to_string(&config_toml).unwrap();
        change(&mut trainer, &mut config);
        fs::write(trainer_json, trainer.to_string()).unwrap();
        fs::write(config_toml, config).unwrap();
        reseal(&folder);
    }

    /// Id of the process that trains, or trained last, into the bundle of this name.
    pub fn trainer(&self, name: &str) -> String {
        fs::read_to_string(self.brain(name).join(".lock")).unwrap()
    }

    /// Wait until no process trains into the bundle of this name.
    pub fn wait_until_unused(&self, name: &str) {
        let Ok(lock) = fs::File::open(self.brain(name).join(".lock")) else {
            return;
        };
        let started = Instant::now();
        while lock.try_lock().is_err() {
            assert!(started.elapsed() < PATIENCE, "a process is left");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Start a tiny run and leave it to itself.
    pub fn start(&self, name: &str, flags: &str) -> Running<'_> {
        self.start_command(name, self.command(&Self::tiny(name, flags)))
    }

    /// The same with a command made by hand. Its standard error goes to `NAME.err`.
    pub fn start_command(&self, name: &str, mut command: Command) -> Running<'_> {
        let stderr = fs::File::create(self.path(&format!("{name}.err"))).unwrap();
        Running {
            lab: self,
            name: name.to_string(),
            child: command.stderr(stderr).spawn().unwrap(),
        }
    }

    /// The metrics of the runs of this name.
    pub fn events(&self, name: &str) -> Events {
        Events::parse(&fs::read_to_string(self.path(&format!("{name}.jsonl"))).unwrap())
    }
}

/// Run a command to its end, which has to come in time.
pub fn finish(command: Command) -> Output {
    let mut command = assert_cmd::Command::from_std(command);
    let output = command.timeout(PATIENCE).output().unwrap();
    assert!(output.status.code().is_some(), "it hangs");
    output
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Lines of a metrics file.
pub struct Events(pub Vec<Value>);

impl Events {
    pub fn parse(text: &str) -> Self {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        Self(text.lines().map(parse).collect())
    }

    /// Those of one kind.
    pub fn of(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|e| e["event"] == kind).collect()
    }

    /// One field of every line of a kind.
    pub fn field(&self, kind: &str, field: &str) -> Vec<&Value> {
        self.of(kind).into_iter().map(|e| &e[field]).collect()
    }

    /// One number of every step.
    pub fn steps(&self, field: &str) -> Vec<f64> {
        let numbers = self.field("step", field);
        numbers.iter().map(|v| v.as_f64().unwrap()).collect()
    }

    pub fn end(&self) -> &Value {
        self.of("end").last().expect("the run ended")
    }
}

/// A run in the background, killed when dropped.
pub struct Running<'a> {
    lab: &'a Lab,
    name: String,
    child: Child,
}

impl Running<'_> {
    /// Wait until this text stands in the metrics file.
    pub fn wait_for(&mut self, text: &str) {
        let log = self.lab.path(&format!("{}.jsonl", self.name));
        let started = Instant::now();
        while !fs::read_to_string(&log).is_ok_and(|log| log.contains(text)) {
            assert!(started.elapsed() < PATIENCE, "no {text} in the log");
            assert_eq!(self.child.try_wait().unwrap(), None, "no {text} in the log");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn wait_for_step(&mut self, step: u64) {
        self.wait_for(&format!("\"event\":\"step\",\"step\":{step},"));
    }

    /// Send it signals, given as a shell script that knows it as `$PID`.
    #[cfg(unix)]
    pub fn signal(&self, script: &str) {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", script])
            .env("PID", self.child.id().to_string());
        assert!(shell.status().unwrap().success(), "{script}");
    }

    /// The exit code, once it ends by itself.
    pub fn exit_code(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Its exit code and what it wrote to standard error, once it ends by itself.
    pub fn output(mut self) -> Output {
        let status = self.child.wait().unwrap();
        let stderr = fs::read(self.lab.path(&format!("{}.err", self.name))).unwrap();
        Output {
            status,
            stdout: Vec::new(),
            stderr,
        }
    }

    /// Send the process that trains a signal.
    #[cfg(unix)]
    pub fn signal_trainer(&self, signal: &str) {
        let trainer = self.lab.trainer(&self.name);
        assert_ne!(trainer, self.child.id().to_string());
        self.signal(&format!("kill -{signal} {trainer}"));
    }

    /// Kill it without warning (`kill -9`) and wait until it is gone, and its child with it.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.lab.wait_until_unused(&self.name);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a checkpoint's manifest agree with its files, as somebody does who passes a bundle on that is not what it seems.
pub fn reseal(folder: &Path) {
    /// As the program writes it: its own hash is that of the text without one.
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Manifest {
        format: u64,
        sequence: u64,
        step: u64,
        files: BTreeMap<String, Value>,
        xxh3: String,
    }
    let hash = |bytes: &[u8]| format!("{:032x}", xxhash_rust::xxh3::xxh3_128(bytes));
    let path = folder.join("manifest.json");
    let mut manifest: Manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (name, entry) in &mut manifest.files {
        let bytes = fs::read(folder.join(name)).unwrap();
        *entry = serde_json::json!({"bytes": bytes.len(), "xxh3": hash(&bytes)});
    }
    manifest.xxh3 = String::new();
    let text = |manifest: &Manifest| serde_json::to_string_pretty(manifest).unwrap() + "\n";
    manifest.xxh3 = hash(text(&manifest).as_bytes());
    fs::write(&path, text(&manifest)).unwrap();
}

pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => {
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }
}

/// Bytes of every tensor in a safetensors file.
pub fn tensors(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, view)| (name.to_string(), view.data().to_vec()))
        .collect()
}

/// The same as 32-bit floats.
pub fn float_tensors(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let floats = |bytes: Vec<u8>| {
        let words = bytes.chunks_exact(4);
        words
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    let all = tensors(path).into_iter();
    all.map(|(name, bytes)| (name, floats(bytes))).collect()
}

/// Both bundles have the same weights and optimizer state, bit for bit.
#[track_caller]
pub fn assert_same_brain(a: &Path, b: &Path) {
    let adapter = "adapter_model.safetensors";
    let weights = match a.join(adapter).exists() {
        true => adapter,
        false => "model.safetensors",
    };
    for file in [weights, "optimizer.safetensors"] {
        let (a, b) = (tensors(&a.join(file)), tensors(&b.join(file)));
        assert!(a.keys().eq(b.keys()), "{file} has other tensors");
        for (name, bytes) in &a {
            assert!(*bytes == b[name], "{name} differs in {file}");
        }
    }
}

/// The program failed with this exit code and one clear line that has all of these words.
#[track_caller]
pub fn assert_clear_error(output: &Output, code: i32, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let errors: Vec<&str> = text.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    assert_eq!(text.lines().last(), Some(errors[0]), "{text}");
    for word in words {
        assert!(errors[0].contains(word), "no `{word}` in: {}", errors[0]);
    }
    for noise in ["panicked", "backtrace", "internal error", "src/"] {
        assert!(!text.contains(noise), "{noise}: {text}");
    }
}
