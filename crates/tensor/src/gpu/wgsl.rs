//! WGSL with what it lacks for one text to serve many variants: a line `#constants` stands for the
//! declarations of the constants, and the lines between `#if NAME` (or `#if !NAME`), `#else` and
//! `#endif` are there if the constant is not 0.

use crate::gpu::source::Part;

/// The text of a module: its parts one after the other, for these constants.
///
/// # Panics
/// If a directive is not one of those above or names no constant, or blocks are not closed: the
/// parts are the program's own, and a test puts each variant together.
pub(super) fn text(parts: &[Part], constants: &[(&str, u32)]) -> String {
    let mut text = String::new();
    let mut open: Vec<bool> = Vec::new();
    for line in parts.iter().flat_map(|part| part.text.lines()) {
        let mut words = line.split_whitespace();
        match words.next().filter(|word| word.starts_with('#')) {
            Some("#if") => open.push(holds(words.next().unwrap_or(""), constants)),
            Some("#else") => {
                let last = open.last_mut().expect("#else follows #if");
                *last = !*last;
            }
            Some("#endif") => drop(open.pop().expect("#endif follows #if")),
            Some("#constants") => text.extend(constants.iter().map(declaration)),
            Some(other) => panic!("unknown directive {other}"),
            None if open.iter().all(|open| *open) => {
                text += line;
                text.push('\n');
            }
            None => {}
        }
    }
    assert!(open.is_empty(), "#if without #endif");
    text
}

fn declaration((name, value): &(&str, u32)) -> String {
    format!("const {name}: u32 = {value}u;\n")
}

fn holds(condition: &str, constants: &[(&str, u32)]) -> bool {
    let name = condition.trim_start_matches('!');
    let value = constants.iter().find(|(n, _)| *n == name);
    let (_, value) = value.unwrap_or_else(|| panic!("#if of the unknown constant {name}"));
    (*value != 0) != condition.starts_with('!')
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: [Part; 2] = [
        Part::new("#constants\n#if A\na\n#if !B\nab\n#endif\n"),
        Part::new("#else\nb\n#endif\nc"),
    ];

    #[test]
    fn blocks_depend_on_constants() {
        let body = |a, b| {
            let text = text(&PARTS, &[("A", a), ("B", b)]);
            text.lines().skip(2).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(body(1, 0), "a ab c");
        assert_eq!(body(7, 1), "a c");
        assert_eq!(body(0, 0), "b c");
    }

    #[test]
    fn constants_are_declared_where_the_text_says() {
        let text = text(&[Part::new("enable f16;\n#constants\nx")], &[("A", 3)]);
        assert_eq!(text, "enable f16;\nconst A: u32 = 3u;\nx\n");
    }

    #[test]
    #[should_panic(expected = "unknown constant C")]
    fn a_condition_on_nothing_is_a_mistake() {
        text(&[Part::new("#if C\n#endif")], &[]);
    }
}
