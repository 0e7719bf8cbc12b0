//! Reading and writing the configuration as TOML, and laying one source over another.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::config::{Preset, Subject, TrainConfig};
use crate::error::{Error, Result};

/// Keys that belong to one run and are not taken over from the bundle when another run continues
/// it. Among them is every place that is written: a bundle may come from elsewhere, and must not
/// say which of the user's files text is appended to.
const NOT_RESUMED: [&str; 16] = [
    "brain_name",
    "bundle_dir",
    "device",
    "distributed",
    "distributed_timeout",
    "json",
    "log_file",
    "quiet",
    "resume",
    "resume_if_exists",
    "rewarm_steps",
    "save_dir",
    "stop_file",
    "student_init",
    "supervise",
    "tensorboard",
];

/// Keys that are ACT-v1's alone, and are kept of no decoder: its config.json says what it is.
const OF_ACTV1: [&str; 12] = [
    "expansion",
    "h_cycles",
    "h_layers",
    "halt_exploration",
    "halt_max_steps",
    "halt_reward",
    "hidden_size",
    "l_cycles",
    "l_layers",
    "num_heads",
    "pos_encodings",
    "tie_embeddings",
];

/// What a user gives over the defaults: flags, and the file that they name.
pub trait Overlay {
    /// A TOML file to lay over the configuration first.
    fn config_file(&self) -> Option<&Path>;

    /// What is trained, by which some defaults go.
    fn subject(&self) -> Subject {
        Subject::Scratch
    }

    /// Set what was given.
    fn apply(&self, config: &mut TrainConfig);
}

impl TrainConfig {
    /// Defaults, then the file of `--config`, then the flags; checked.
    pub fn resolve(flags: &dyn Overlay) -> Result<Self> {
        Self::of_flags(flags)?.validated()
    }

    /// As [`TrainConfig::resolve`], not yet checked.
    pub fn of_flags(flags: &dyn Overlay) -> Result<Self> {
        Self::over_defaults(flags, |defaults| defaults.overlay_flags(flags))
    }

    /// What `overlay` makes of the defaults, which go by what is trained: whether it is an adapter shows only then.
    fn over_defaults(flags: &dyn Overlay, overlay: impl Fn(Self) -> Result<Self>) -> Result<Self> {
        let config = overlay(Self::defaults(flags.subject()))?;
        match config.subject == Subject::Pretrained && config.trains_adapter() {
            true => overlay(Self::defaults(Subject::Adapter)),
            false => Ok(config),
        }
    }

    /// As [`TrainConfig::resolve`], but over the configuration that a bundle was saved with instead
    /// of the defaults, so that `--resume` alone goes on with the same run. Where it is written to, the
    /// device and the output are not taken over.
    ///
    /// `saved` is the text of the bundle's `config.toml`, `path` where it was read, for errors.
    pub fn resolve_resumed(saved: &str, path: &Path, flags: &dyn Overlay) -> Result<Self> {
        let mut table = parse(saved, path)?;
        table.retain(|key, _| !NOT_RESUMED.contains(&key));
        let resolved = Self::over_defaults(flags, |defaults| {
            let saved = defaults.overlay_table(table.clone(), path)?;
            saved.overlay_flags(flags)
        });
        resolved?.validated()
    }

    /// The file of `--config` and then the flags over this configuration; not yet checked.
    pub fn overlay_flags(self, flags: &dyn Overlay) -> Result<Self> {
        let mut config = match flags.config_file() {
            Some(path) => self.overlay_file(path)?,
            None => self,
        };
        // Whether the flags name one shows where none is.
        let (name, log) = (config.brain_name.clone(), config.log_file.take());
        flags.apply(&mut config);
        if config.log_file.is_none() {
            config.log_file = log.map(|log| following(log, &name, &config.brain_name));
        }
        Ok(config)
    }

    /// A built-in file over this configuration; not yet checked.
    pub fn overlay_preset(self, preset: Preset) -> Result<Self> {
        let path = Path::new(preset.name);
        self.overlay_table(parse(preset.text, path)?, path)
    }

    /// A TOML file, or a built-in one by its name, over this configuration; not yet checked.
    pub fn overlay_file(self, path: &Path) -> Result<Self> {
        if let Some(preset) = Preset::named(path) {
            return self.overlay_preset(preset);
        }
        let text = std::fs::read_to_string(path).map_err(|cause| {
            Error::invalid(format!(
                "cannot read the configuration {}: {cause}; give --config a TOML file, or the name of a built-in one: {}",
                path.display(),
                Preset::names()
            ))
        })?;
        let mut table = parse(&text, path)?;
        if lies_in_a_bundle(path) {
            let before = table.len();
            table.retain(|key, _| !NOT_RESUMED.contains(&key));
            if table.len() < before {
                tracing::warn!(
                    "{} is a bundle's: where that run was written to, and how it began, is not taken over",
                    path.display()
                );
            }
        }
        self.overlay_table(table, path)
    }

    /// Defaults with the TOML `text` over them, those of what it says is trained; not yet checked. `path` is named in
    /// errors.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self> {
        let table = parse(text, path)?;
        let subject = match (table.get("pretrained"), table.get("model_config")) {
            (Some(_), _) => Subject::Pretrained,
            (None, Some(_)) => Subject::Decoder,
            (None, None) => Subject::Scratch,
        };
        Self::defaults(subject).overlay_table(table, path)
    }

    /// This configuration as TOML, one `key = value` a line. Keys without a value are left out, and those that mean
    /// nothing to the model.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(&self.meaningful()?).map_err(not_toml)
    }

    /// The same as JSON, with the keys that have no value.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn to_json(&self) -> Result<serde_json::Value> {
        let mut json = serde_json::to_value(self)
            .map_err(|cause| Error::failed(format!("cannot record the configuration: {cause}")))?;
        if let (true, Some(keys)) = (self.trains_decoder(), json.as_object_mut()) {
            OF_ACTV1.iter().for_each(|key| drop(keys.remove(*key)));
        }
        Ok(json)
    }

    /// Of a decoder's configuration, forget what keys of ACT-v1 alone were given; gives their names.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn forget_actv1_keys(&mut self) -> Result<Vec<&'static str>> {
        if !self.trains_decoder() {
            return Ok(Vec::new());
        }
        let (mut own, usual) = (self.to_table()?, Self::defaults(self.subject).to_table()?);
        let given = |key: &&str| own.get(*key) != usual.get(*key);
        let given: Vec<_> = OF_ACTV1.into_iter().filter(given).collect();
        for key in &given {
            own.remove(*key);
            own.extend(
                usual
                    .get(*key)
                    .map(|value| (key.to_string(), value.clone())),
            );
        }
        if !given.is_empty() {
            let subject = self.subject;
            *self = own.try_into().map_err(|cause: toml::de::Error| {
                Error::failed(format!("the configuration: {}", one_line(cause.message())))
            })?;
            self.subject = subject;
        }
        Ok(given)
    }

    fn meaningful(&self) -> Result<Table> {
        let mut table = self.to_table()?;
        if self.trains_decoder() {
            table.retain(|key, _| !OF_ACTV1.contains(&key));
        }
        Ok(table)
    }

    /// What differs from `older`, as `key: old -> new`, for the user who resumes with other
    /// settings.
    pub fn changes_from(&self, older: &Self) -> Result<Vec<String>> {
        let (new, old) = (self.meaningful()?, older.meaningful()?);
        let show = |value: Option<&Value>| value.map_or("none".to_string(), Value::to_string);
        Ok(known_keys()?
            .iter()
            .filter(|key| !NOT_RESUMED.contains(&key.as_str()) && new.get(*key) != old.get(*key))
            .map(|key| format!("{key}: {} -> {}", show(old.get(key)), show(new.get(key))))
            .collect())
    }

    fn to_table(&self) -> Result<Table> {
        Table::try_from(self).map_err(not_toml)
    }

    fn overlay_table(self, table: Table, path: &Path) -> Result<Self> {
        let mut merged = self.to_table()?;
        // The one takes the place of the other.
        match (table.contains_key("steps"), table.contains_key("epochs")) {
            (true, true) => return Err(twice(path)),
            (true, false) => merged.remove("epochs"),
            (false, _) => None,
        };
        let known = known_keys()?;
        let subject = self.subject;
        let mut config = self;
        // One key at a time, so that an error can name the key it is about.
        for (key, value) in table {
            if value.is_table() {
                return Err(section(&key, path));
            }
            if !known.contains(&key) {
                return Err(unknown_key(&key, path, &known));
            }
            let shown = value.to_string();
            merged.insert(key.clone(), value);
            config = merged
                .clone()
                .try_into()
                .map_err(|cause| bad_value(&key, &shown, path, &cause))?;
        }
        // No file says it, and it would be lost on the way through a table.
        config.subject = subject;
        Ok(config)
    }

    fn validated(self) -> Result<Self> {
        self.validate()?;
        Ok(self)
    }
}

/// A log that is called as the brain was is called as it is now: other runs would write into the same.
fn following(log: PathBuf, before: &str, now: &str) -> PathBuf {
    match before != now && log.file_stem().is_some_and(|stem| stem == before) {
        true => log.with_file_name(match log.extension() {
            Some(extension) => format!("{now}.{}", extension.display()),
            None => now.to_string(),
        }),
        false => log,
    }
}

/// Whether a configuration is one that was saved with a run, which may come from elsewhere.
fn lies_in_a_bundle(path: &Path) -> bool {
    ["manifest.json", "trainer.json"]
        .iter()
        .all(|name| path.with_file_name(name).is_file())
}

fn not_toml(cause: toml::ser::Error) -> Error {
    Error::failed(format!("cannot write the configuration as TOML: {cause}"))
}

fn parse(text: &str, path: &Path) -> Result<Table> {
    text.parse::<Table>().map_err(|cause| {
        let start = cause.span().map_or(0, |span| span.start);
        let line = text
            .bytes()
            .take(start)
            .filter(|&byte| byte == b'\n')
            .count()
            + 1;
        let message = one_line(cause.message());
        Error::invalid(format!("{}, line {line}: {message}", path.display()))
    })
}

/// How alike names have to be for one to be meant by the other, as clap has it for flags.
const ALIKE: f64 = 0.7;

fn unknown_key(key: &str, path: &Path, known: &[String]) -> Error {
    let wanted = key.replace('-', "_");
    let alike = |known: &String| strsim::jaro_winkler(&wanted, known);
    let nearest = known
        .iter()
        .filter(|known| alike(known) > ALIKE)
        .max_by(|a, b| alike(a).total_cmp(&alike(b)));
    let nearest = nearest.map_or(String::new(), |key| format!(" (did you mean `{key}`?)"));
    Error::invalid(format!(
        "{}: unknown key `{key}`{nearest}; \
         keys are the command's flags (--help) in snake case",
        path.display()
    ))
}

fn section(key: &str, path: &Path) -> Error {
    Error::invalid(format!(
        "{}: there are no sections such as [{key}]: write every key at the top level of the file",
        path.display()
    ))
}

fn twice(path: &Path) -> Error {
    Error::invalid(format!(
        "{}: `steps` and `epochs` both say how long the run is: leave one out",
        path.display()
    ))
}

fn bad_value(key: &str, shown: &str, path: &Path, cause: &toml::de::Error) -> Error {
    let message = one_line(cause.message());
    Error::invalid(format!(
        "{}: `{key} = {}`: {message}; --help says what --{} takes",
        path.display(),
        one_line(shown),
        key.replace('_', "-")
    ))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Every key that a configuration file may have. JSON, unlike TOML, also writes the fields that are
/// `None`.
fn known_keys() -> Result<Vec<String>> {
    match serde_json::to_value(TrainConfig::default()) {
        Ok(serde_json::Value::Object(fields)) => {
            Ok(fields.into_iter().map(|(key, _)| key).collect())
        }
        other => Err(Error::failed(format!(
            "the configuration is not a set of keys: {other:?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DeviceChoice;

    /// A file, and what was given over it.
    struct Given(Option<PathBuf>, fn(&mut TrainConfig));

    impl Overlay for Given {
        fn config_file(&self) -> Option<&Path> {
            self.0.as_deref()
        }

        fn apply(&self, config: &mut TrainConfig) {
            self.1(config);
        }
    }

    fn from_toml(text: &str) -> Result<TrainConfig> {
        TrainConfig::from_toml(text, Path::new("my.toml"))
    }

    fn message(text: &str) -> String {
        let error = from_toml(text).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let message = error.to_string();
        assert!(!message.contains('\n'), "{message}");
        assert!(message.contains("my.toml"), "{message}");
        message
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.toml");
        std::fs::write(&path, "steps = 7\nbatch_size = 3\namp = false\n").unwrap();
        let given = Given(Some(path), |config| {
            config.batch_size = 5;
            config.dataset_file = Some("x".into());
        });
        let config = TrainConfig::resolve(&given).unwrap();
        assert_eq!(config.steps, 7);
        assert_eq!(config.batch_size, 5);
        assert_eq!(config.amp, Some(false));
        assert_eq!(config.max_seq_len, 128);
    }

    #[test]
    fn a_log_called_as_the_brain_follows_its_name_unless_it_is_given() {
        let log = |flags| {
            let given = Given(Some("quickstart".into()), flags);
            let log = TrainConfig::of_flags(&given).unwrap().log_file.unwrap();
            log.file_name().unwrap().to_str().unwrap().to_string()
        };
        assert_eq!(log(|_| {}), "quickstart.jsonl");
        assert_eq!(log(|c| c.brain_name = "mine".into()), "mine.jsonl");
        let both = |c: &mut TrainConfig| {
            c.brain_name = "mine".into();
            c.log_file = Some("quickstart.jsonl".into());
        };
        assert_eq!(log(both), "quickstart.jsonl");
    }

    /// Flags of a fine-tuning.
    struct OfPretrained(Given);

    impl Overlay for OfPretrained {
        fn config_file(&self) -> Option<&Path> {
            self.0.config_file()
        }

        fn subject(&self) -> Subject {
            Subject::Pretrained
        }

        fn apply(&self, config: &mut TrainConfig) {
            self.0.apply(config);
        }
    }

    #[test]
    fn the_learning_rate_goes_by_what_is_trained_unless_it_is_given() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.toml");
        let lr = |text: &str, apply| {
            std::fs::write(&path, text).unwrap();
            let given = OfPretrained(Given(Some(path.clone()), apply));
            let config = TrainConfig::of_flags(&given).unwrap();
            assert_eq!(config.subject, Subject::Pretrained);
            config.lr
        };
        assert_eq!(lr("steps = 7\nseed = 1\n", |_| {}), 1e-5);
        assert_eq!(lr("lr = 3e-5", |_| {}), 3e-5);
        assert_eq!(lr("lr = 3e-5", |config| config.lr = 4e-5), 4e-5);
    }

    #[test]
    fn a_resumed_run_keeps_its_rate_whatever_the_default() {
        let saved = TrainConfig {
            lr: 5e-4,
            dataset_file: Some("d.txt".into()),
            ..TrainConfig::default()
        };
        let text = saved.to_toml().unwrap();
        let given = OfPretrained(Given(None, |config| config.resume = true));
        let config = TrainConfig::resolve_resumed(&text, Path::new("config.toml"), &given).unwrap();
        assert_eq!((config.lr, config.subject), (5e-4, Subject::Pretrained));
    }

    #[test]
    fn missing_file_is_a_bad_argument() {
        let given = Given(Some("no/such.toml".into()), |_| {});
        let error = TrainConfig::resolve(&given).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("such.toml"), "{error}");
    }

    #[test]
    fn text_round_trip_keeps_every_value() {
        let config = TrainConfig {
            lr: 1.5e-5,
            log_file: Some("logs/m.jsonl".into()),
            sample_prompt: Some("He said \"no\"\n".into()),
            use_flash_attn: Some(false),
            ..TrainConfig::default()
        };
        assert_eq!(from_toml(&config.to_toml().unwrap()).unwrap(), config);
    }

    #[test]
    fn a_decoders_text_has_no_sizes_of_another_model() {
        let config = TrainConfig {
            pretrained: Some("org/tiny".into()),
            dataset_file: Some("d.txt".into()),
            ..TrainConfig::defaults(Subject::Pretrained)
        };
        let text = config.to_toml().unwrap();
        let json = config.to_json().unwrap();
        for key in OF_ACTV1 {
            assert!(!text.contains(&format!("{key} =")), "{key}");
            assert!(json.get(key).is_none(), "{key}");
        }
        assert_eq!(from_toml(&text).unwrap(), config);
        // Older files have them.
        let older = format!("{text}hidden_size = 512\nhalt_max_steps = 1\n");
        assert_eq!(from_toml(&older).unwrap(), config);
        let mut given = from_toml(&format!("{text}hidden_size = 64")).unwrap();
        assert_eq!(given.forget_actv1_keys().unwrap(), ["hidden_size"]);
        assert_eq!(given, config);
        assert_eq!(given.forget_actv1_keys().unwrap(), Vec::<&str>::new());
    }

    #[test]
    fn steps_and_epochs_take_each_others_place() {
        let message = message("steps = 3\nepochs = 2");
        assert!(message.contains("`steps` and `epochs`"), "{message}");
        assert_eq!(from_toml("epochs = 2").unwrap().epochs, Some(2.0));
        let passes = TrainConfig {
            epochs: Some(2.0),
            ..TrainConfig::default()
        };
        let table = parse("steps = 3", Path::new("my.toml")).unwrap();
        let config = passes.overlay_table(table, Path::new("my.toml")).unwrap();
        assert_eq!((config.steps, config.epochs), (3, None));
    }

    #[test]
    fn whole_numbers_serve_as_fractions() {
        assert_eq!(from_toml("weight_decay = 0").unwrap().weight_decay, 0.0);
    }

    #[test]
    fn unknown_key_names_the_nearest_one() {
        for (key, nearest) in [
            ("batchsize", "batch_size"),
            ("batch-size", "batch_size"),
            ("max_seq_length", "max_seq_len"),
            ("grad_accumulation_steps", "gradient_accumulation_steps"),
        ] {
            let message = message(&format!("{key} = 1"));
            assert!(message.contains(&format!("`{key}`")), "{message}");
            assert!(message.contains(&format!("`{nearest}`")), "{message}");
        }
    }

    #[test]
    fn wrong_type_names_key_and_value() {
        for (text, key, value) in [
            ("steps = \"many\"", "steps", "many"),
            ("steps = -5", "steps", "-5"),
            ("device = \"tpu\"", "device", "tpu"),
            ("pos_encodings = \"alibi\"", "pos_encodings", "alibi"),
        ] {
            let message = message(text);
            assert!(
                message.contains(key) && message.contains(value),
                "{message}"
            );
        }
    }

    #[test]
    fn sections_are_refused_by_name() {
        assert!(message("[model]\nhidden_size = 4").contains("[model]"));
        assert!(message("[training]\nsteps = 4").contains("[training]"));
    }

    #[test]
    fn broken_toml_names_the_line() {
        let message = message("steps = 3\nlr = = 4\n");
        assert!(message.contains("line 2"), "{message}");
    }

    #[test]
    fn resuming_takes_over_the_run_but_not_its_place() {
        let saved = TrainConfig {
            hidden_size: 64,
            dataset_file: Some("d.txt".into()),
            save_dir: Some("old".into()),
            log_file: Some("/home/somebody/.profile".into()),
            tensorboard: Some("/home/somebody".into()),
            stop_file: Some("stop".into()),
            student_init: Some("teacher".into()),
            device: DeviceChoice::Cuda(1),
            ..TrainConfig::default()
        };
        let text = saved.to_toml().unwrap();
        let given = Given(None, |config| {
            config.resume = true;
            config.steps = 400;
            config.save_dir = Some("new".into());
        });
        let config = TrainConfig::resolve_resumed(&text, Path::new("config.toml"), &given).unwrap();
        assert_eq!((config.hidden_size, config.steps), (64, 400));
        assert_eq!(config.bundle_path(), Path::new("new"));
        assert_eq!(config.student_init, None);
        assert_eq!((&config.log_file, &config.tensorboard), (&None, &None));
        assert_eq!(config.stop_file, None);
        assert_eq!(config.device, DeviceChoice::Auto);
        assert_eq!(config.changes_from(&saved).unwrap(), ["steps: 200 -> 400"]);
    }

    #[test]
    fn a_bundles_own_file_says_how_to_train_and_not_where_to_write() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        let saved = TrainConfig {
            hidden_size: 64,
            log_file: Some("/home/somebody/.profile".into()),
            save_dir: Some("/home/somebody".into()),
            ..TrainConfig::default()
        };
        std::fs::write(&path, saved.to_toml().unwrap()).unwrap();
        let read = || TrainConfig::default().overlay_file(&path).unwrap();
        assert_eq!(read(), saved);
        for name in ["manifest.json", "trainer.json"] {
            std::fs::write(directory.path().join(name), "{}").unwrap();
        }
        let config = read();
        assert_eq!(config.hidden_size, 64);
        assert_eq!((config.log_file, config.save_dir), (None, None));
    }

    #[test]
    fn presets_load_and_validate() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let mut count = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let mut config = TrainConfig::default().overlay_file(&path).unwrap();
            config.dataset_file.get_or_insert_with(|| "text.txt".into());
            config
                .validate()
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            count += 1;
        }
        assert!(count >= 4, "{count} presets");
    }
}
