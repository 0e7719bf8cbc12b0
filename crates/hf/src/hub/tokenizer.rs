//! The files of a tokenizer, without a model.

use std::path::PathBuf;
use std::sync::Arc;

use aios_base::background::{Watch, watched};
use aios_base::error::{Error, Result};

use super::{Download, GivesUp, Hub, MAIN, Progress, Trouble};
use crate::names::{TOKENIZER_CONFIG_FILE, TOKENIZER_FILE};

impl Hub {
    /// Path of the tokenizer file of Hub model `id` in the shared cache, downloaded if need be.
    ///
    /// # Errors
    /// In one line with what to do, if it is not to be had; or what `watch` gives, at once.
    pub fn tokenizer_file(&self, id: &str, watch: &mut Watch) -> Result<PathBuf> {
        let cached = self.commit(id, MAIN);
        let cached = cached.map(|commit| self.snapshot(id, &commit).join(TOKENIZER_FILE));
        if let Some(path) = cached.filter(|path| path.is_file()) {
            return Ok(path);
        }
        if self.offline {
            return Err(no_tokenizer(id, "HF_HUB_OFFLINE forbids the download"));
        }
        // Many tokenizers have no such file; what matters is whether an end of text is found at load.
        let config = match self.download(id, MAIN, TOKENIZER_CONFIG_FILE, watch)? {
            Ok(config) => Some(config),
            Err(Trouble::Refused(404, _)) => None,
            Err(trouble) => return Err(no_tokenizer(id, &self.cause(id, &trouble))),
        };
        let revision = config.as_ref().map_or(MAIN, |config| &config.commit);
        let tokenizer = self
            .download(id, revision, TOKENIZER_FILE, watch)?
            .map_err(|trouble| no_tokenizer(id, &self.cause_of_none(id, &trouble)))?;
        if let Some(config) = &config {
            self.keep(id, TOKENIZER_CONFIG_FILE, config)?;
        }
        let path = self.keep(id, TOKENIZER_FILE, &tokenizer)?;
        // Last, so that an interruption does not leave a cached tokenizer without its companion.
        self.note_commit(id, MAIN, &tokenizer.commit)?;
        Ok(path)
    }

    /// Downloads a file into memory, so that whatever interrupts it leaves nothing.
    pub(super) fn download(
        &self,
        id: &str,
        revision: &str,
        file: &str,
        watch: &mut Watch,
    ) -> Result<Result<Download, Trouble>> {
        let progress = Arc::new(Progress::default());
        let _gives_up = GivesUp(Arc::clone(&progress));
        let (hub, told) = (self.clone(), Arc::clone(&progress));
        let url = self.file_url(id, revision, file);
        watched(
            &format!("{file} of {id}"),
            watch,
            || progress.shown(),
            move || Ok(hub.fetch(url, &told)),
        )
    }

    fn cause_of_none(&self, id: &str, trouble: &Trouble) -> String {
        match trouble {
            Trouble::Refused(404, code) if code == "EntryNotFound" => format!(
                "404: the repository has no {TOKENIZER_FILE}; choose one with a fast (tokenizers) tokenizer"
            ),
            trouble => self.cause(id, trouble),
        }
    }
}

fn no_tokenizer(id: &str, cause: &str) -> Error {
    Error::failed(format!(
        "tokenizer {id} is neither a local path nor in the Hugging Face cache, and could not be downloaded ({cause}): \
         check the id and the network, or use --model gpt2, which is built in"
    ))
}
