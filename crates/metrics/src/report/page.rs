//! The page as one text: markup, style, script and data.

use crate::report::Report;

const PAGE: &str = include_str!("page/page.html");
const STYLE: [&str; 2] = [
    include_str!("page/uplot/uPlot.min.css"),
    include_str!("page/report.css"),
];
/// In this order: each uses what comes before.
const SCRIPT: [&str; 7] = [
    include_str!("page/uplot/uPlot.iife.min.js"),
    include_str!("page/charts.js"),
    include_str!("page/memory.js"),
    include_str!("page/picture.js"),
    include_str!("page/tables.js"),
    include_str!("page/samples.js"),
    include_str!("page/main.js"),
];

/// How every page of this and of earlier versions begins, by which one is known.
pub fn beginning() -> &'static str {
    PAGE.split_once("{{")
        .map_or(PAGE, |(beginning, _)| beginning)
}

/// The whole page.
pub fn render(report: &Report) -> String {
    let title = match &report.runs[..] {
        [run] => run.name.clone(),
        runs => format!("{} runs", runs.len()),
    };
    let footer = format!(
        "Made by aios {}. Charts: uPlot, MIT licence.",
        env!("CARGO_PKG_VERSION")
    );
    let parts = [
        ("title", escaped(&title)),
        ("style", STYLE.join("\n")),
        ("footer", footer),
        // So that no text can end the element it stands in.
        ("data", report.to_json().replace('<', "\\u003c")),
        ("script", SCRIPT.join("\n")),
    ];
    // One pass, so that a text which looks like a placeholder stays what it is.
    let mut page = String::new();
    let mut rest = PAGE;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap_or_default();
        page += before;
        let part = parts.iter().find(|(part, _)| *part == name);
        page += part.map_or("", |(_, text)| text);
        rest = after;
    }
    page + rest
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn page(name: &str, text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        Report::read(&[path]).unwrap().to_html()
    }

    #[test]
    fn text_of_a_run_cannot_become_markup() {
        let evil = "</script><script>alert(1)</script>{{style}}";
        let lines = format!(
            "{{\"event\":\"start\"}}\n{}\n",
            serde_json::json!({"event": "sample", "step": 1, "text": evil})
        );
        let page = page("<b>.jsonl", &lines);
        assert!(!page.contains("<script>alert"));
        assert!(page.contains("<title>&lt;b></title>"));
        assert!(page.contains("alert(1)\\u003c/script>{{style}}"));
    }

    /// Pages that users have are replaced only while this stays.
    #[test]
    fn pages_begin_as_they_always_did() {
        let page = page("m.jsonl", "{\"event\":\"start\"}\n");
        let always = "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
            <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
            <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n<title>";
        assert_eq!(beginning(), always);
        assert!(page.starts_with(always));
    }

    #[test]
    fn the_page_asks_nobody_for_anything() {
        let page = page("m.jsonl", "{\"event\":\"start\"}\n");
        for outside in ["src=", "href=\"http", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        for part in ["title", "style", "footer", "data", "script"] {
            let placeholder = format!("{{{{{part}}}}}");
            assert!(!page.contains(&placeholder), "{placeholder}");
        }
    }
}
