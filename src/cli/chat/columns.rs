//! Two texts side by side.

/// Columns between the two.
const GAP: usize = 3;
/// Narrowest column that can be read.
const NARROWEST: usize = 30;

/// Lines with both texts, each under its title and wrapped to half of `width` columns; `None` if that is too narrow.
pub fn side_by_side(titles: [&str; 2], texts: [&str; 2], width: usize) -> Option<String> {
    let column = width.checked_sub(GAP)? / 2;
    if column < NARROWEST {
        return None;
    }
    let [left, right] = [0, 1].map(|at| {
        let ruled = [titles[at].to_string(), "-".repeat(column)];
        let lines = wrapped(texts[at], column);
        ruled.into_iter().chain(lines).collect::<Vec<_>>()
    });
    let blank = String::new();
    let lines = (0..left.len().max(right.len())).map(|at| {
        let [left, right] = [&left, &right].map(|side| side.get(at).unwrap_or(&blank));
        let pad = (column + GAP).saturating_sub(textwrap::core::display_width(left));
        format!("{left}{}{right}", " ".repeat(pad))
            .trim_end()
            .to_string()
            + "\n"
    });
    Some(lines.collect())
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let lines = textwrap::wrap(text, textwrap::Options::new(width));
    lines.into_iter().map(|line| line.into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_wrapped_and_padded_by_what_is_seen() {
        let long = "word ".repeat(20);
        let both = side_by_side(["before", "after"], ["ein\n語語", &long], 80).unwrap();
        let lines: Vec<&str> = both.lines().collect();
        let start = |line: &str, what: &str| {
            let at = line.find(what).unwrap();
            textwrap::core::display_width(&line[..at])
        };
        assert_eq!(start(lines[0], "after"), 41);
        assert_eq!(start(lines[2], "word"), 41);
        assert_eq!(start(lines[3], "word"), 41);
        assert!(
            lines
                .iter()
                .all(|line| textwrap::core::display_width(line) <= 80)
        );
        assert_eq!(lines.len(), 2 + 3);
        assert!(side_by_side(["", ""], ["", ""], 60).is_none());
        assert!(side_by_side(["", ""], ["", ""], 1).is_none());
    }
}
