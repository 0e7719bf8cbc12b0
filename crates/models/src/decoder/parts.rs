//! Parameters that are parts of larger ones in a model's files.

use std::ops::Range;

/// Where a file holds a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartOf {
    /// The tensor in the file.
    pub name: String,
    /// The parameter's place among the tensor's equal parts, which are rows of it, and how many there are.
    pub part: usize,
    pub parts: usize,
}

impl PartOf {
    /// Shape of the tensor, given the parameter's.
    pub fn whole(&self, shape: &[usize]) -> Vec<usize> {
        let mut whole = shape.to_vec();
        if let Some(rows) = whole.first_mut() {
            *rows *= self.parts;
        }
        whole
    }

    /// Which of the tensor's elements are the parameter's.
    pub fn elements(&self, shape: &[usize]) -> Range<usize> {
        let count: usize = shape.iter().product();
        self.part * count..(self.part + 1) * count
    }
}

/// HRM-Text's parameters by transformers' names: the last words of them, those in its files, and the place there.
const OF_HRM_TEXT: [(&str, &str, usize, usize); 7] = [
    ("self_attn.gate_proj.weight", "attn.gqkv_proj.weight", 0, 4),
    ("self_attn.q_proj.weight", "attn.gqkv_proj.weight", 1, 4),
    ("self_attn.k_proj.weight", "attn.gqkv_proj.weight", 2, 4),
    ("self_attn.v_proj.weight", "attn.gqkv_proj.weight", 3, 4),
    ("self_attn.o_proj.weight", "attn.o_proj.weight", 0, 1),
    ("mlp.gate_proj.weight", "mlp.gate_up_proj.weight", 0, 2),
    ("mlp.up_proj.weight", "mlp.gate_up_proj.weight", 1, 2),
];

/// Where a model's files may hold a parameter that they do not have by its name.
pub fn part_of(name: &str) -> Option<PartOf> {
    let stack = ["L_module.layers.", "H_module.layers."];
    if !stack.iter().any(|stack| name.contains(stack)) {
        return None;
    }
    OF_HRM_TEXT.iter().find_map(|&(own, in_file, part, parts)| {
        let before = name.strip_suffix(own)?;
        let name = format!("{before}{in_file}");
        Some(PartOf { name, part, parts })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_rows_of_the_whole() {
        let part = part_of("model.H_module.layers.1.mlp.up_proj.weight").unwrap();
        assert_eq!(part.name, "model.H_module.layers.1.mlp.gate_up_proj.weight");
        assert_eq!(part.whole(&[3, 5]), [6, 5]);
        assert_eq!(part.elements(&[3, 5]), 15..30);
        assert_eq!(part_of("model.layers.1.mlp.up_proj.weight"), None);
        assert_eq!(
            part_of("model.H_module.layers.1.mlp.down_proj.weight"),
            None
        );
    }
}
