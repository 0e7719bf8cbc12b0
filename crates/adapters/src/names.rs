//! Names of an adapter's tensors in `adapter_model.safetensors`.

/// What stands before a module's name in the base model.
pub const PREFIX: &str = "base_model.model.";

/// The embedding's table once more, where it is trained as a whole and is the head too: PEFT has it under both names.
pub const TIED_HEAD: &str = "base_model.model.lm_head.weight";

/// `[rank, inputs]` of the module.
pub fn a(module: &str) -> String {
    format!("{PREFIX}{module}.lora_A.weight")
}

/// `[outputs, rank]` of the module.
pub fn b(module: &str) -> String {
    format!("{PREFIX}{module}.lora_B.weight")
}

/// DoRA's magnitudes, `[outputs]` of the module.
pub fn magnitude(module: &str) -> String {
    format!("{PREFIX}{module}.lora_magnitude_vector")
}

/// A parameter's name in the file: an adapter's own, or that of a weight of the base that is trained as a whole.
pub fn in_file(parameter: &str) -> String {
    match is_of_an_adapter(parameter) {
        true => parameter.to_string(),
        false => format!("{PREFIX}{parameter}"),
    }
}

/// Whether a parameter is none of the base's.
pub fn is_of_an_adapter(parameter: &str) -> bool {
    parameter.starts_with(PREFIX)
}
