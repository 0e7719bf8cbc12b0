//! Names of the files in a model's folder.

/// The architecture and its numbers.
pub const CONFIG_FILE: &str = "config.json";
/// What an adapter is, in place of the architecture of a model.
pub const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";

/// The file with an adapter's tensors.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";
/// All tensors in one file.
pub const MODEL_FILE: &str = "model.safetensors";
/// Which file has which tensor.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";
pub const GENERATION_FILE: &str = "generation_config.json";
pub const TOKENIZER_FILE: &str = "tokenizer.json";
pub(crate) const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
/// Control tokens, beside the tokenizer's settings.
pub(crate) const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";
/// The chat template.
pub const CHAT_TEMPLATE_FILE: &str = "chat_template.jinja";
/// The place of chat templates between the tokenizer's settings and the one of today.
pub const OLD_CHAT_TEMPLATE_FILE: &str = "chat_template.json";
/// More templates, `NAME.jinja` each.
pub const MORE_CHAT_TEMPLATES: &str = "additional_chat_templates";
const JINJA: &str = ".jinja";

/// What a model's copy needs besides its architecture and tensors.
pub(crate) const PASSENGERS: [&str; 12] = [
    GENERATION_FILE,
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    "added_tokens.json",
    CHAT_TEMPLATE_FILE,
    OLD_CHAT_TEMPLATE_FILE,
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
];

/// Files any of which makes a tokenizer, perhaps with others.
pub(crate) const TOKENIZERS: [&str; 5] = [
    TOKENIZER_FILE,
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
];

/// Whether a model's folder has, beside its tensors, a file of this name, with `/` on every system.
pub fn is_of_a_folder(name: &str) -> bool {
    let description = [CONFIG_FILE, ADAPTER_CONFIG_FILE].contains(&name);
    description || PASSENGERS.contains(&name) || chat_template_name(name).is_some()
}

/// Whether a file of such a name is a chat template.
pub fn is_template(name: &str) -> bool {
    [CHAT_TEMPLATE_FILE, OLD_CHAT_TEMPLATE_FILE].contains(&name)
        || chat_template_name(name).is_some()
}

/// What a template in the folder of more of them is called.
pub(crate) fn chat_template_name(path: &str) -> Option<&str> {
    let file = path.strip_prefix(MORE_CHAT_TEMPLATES)?.strip_prefix('/')?;
    let name = file.strip_suffix(JINJA)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    (!name.is_empty() && name.chars().all(plain)).then_some(name)
}

/// Why a folder with these files has no tensors that can be read, and what to do.
pub(crate) fn no_weights<'a>(names: impl Iterator<Item = &'a str> + Clone) -> String {
    let named = |test: fn(&str) -> bool| names.clone().find(|name| test(name));
    let pickled = |name: &str| {
        let ends = [".bin", ".pt", ".pth", ".ckpt"];
        name.starts_with("pytorch_model") || ends.iter().any(|end| name.ends_with(end))
    };
    if let Some(name) = named(|name| name.starts_with("adapter_model.")) {
        return format!(
            "it has an adapter alone ({name}), not the model that it is for: give that model, which adapter_config.json names"
        );
    }
    if let Some(name) = named(pickled) {
        return format!(
            "it has no safetensors but {name}, a pickle, which runs as a program when it is read: take a repository or a \
             revision with safetensors, or save it as such with save_pretrained of transformers"
        );
    }
    if let Some(name) = named(|name| name.ends_with(".gguf")) {
        return format!(
            "it has no safetensors but {name}: GGUF is a format to run models in, mostly quantized; take the repository that \
             it was made from"
        );
    }
    format!("it has neither {MODEL_FILE} nor {INDEX_FILE}: safetensors are needed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_models_own_files_travel_along() {
        for name in [
            "config.json",
            "tokenizer.model",
            "additional_chat_templates/tool_use.jinja",
        ] {
            assert!(is_of_a_folder(name), "{name}");
        }
        for name in [
            "model.safetensors",
            "README.md",
            "../config.json",
            "additional_chat_templates/../x.jinja",
            "additional_chat_templates/.jinja",
            "additional_chat_templates/a/b.jinja",
        ] {
            assert!(!is_of_a_folder(name), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_what_to_do() {
        for (names, word) in [
            (&["pytorch_model-00001-of-00002.bin"][..], "a pickle"),
            (&["model.Q4_K_M.gguf", "README.md"], "GGUF"),
            (&["adapter_model.safetensors"], "adapter_config.json"),
            (&["README.md"], "safetensors are needed"),
        ] {
            let text = no_weights(names.iter().copied());
            assert!(text.contains(word), "{text}");
        }
    }
}
