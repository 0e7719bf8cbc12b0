//! Against transformers: see scripts/make_chat_goldens.

use crate::record::{Content, Turns, understood};
use crate::template::Template;
use aios_base::config::RecordForm;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// What transformers made of a record.
#[derive(Deserialize)]
struct Case {
    name: String,
    template: String,
    /// JSON in a text: an order of fields counts.
    record: String,
    prompt: bool,
    text: Option<String>,
    /// Characters.
    spans: Option<Vec<[usize; 2]>>,
    refused: Option<String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

fn template(name: &str) -> Template {
    let source = std::fs::read_to_string(folder().join(format!("{name}.jinja"))).unwrap();
    let tokens = [
        ("bos_token", "<s>"),
        ("eos_token", "</s>"),
        ("pad_token", "<pad>"),
    ];
    let tokens = tokens.map(|(name, token)| (name.to_string(), token.to_string()));
    Template::new(&source, &tokens).unwrap()
}

fn turns(json: &str) -> Turns {
    match understood(json, RecordForm::Messages).unwrap() {
        Content::Turns(turns) => turns,
        other => panic!("{other:?}"),
    }
}

#[test]
fn templates_give_what_transformers_gives() {
    let golden = std::fs::read_to_string(folder().join("golden.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&golden).unwrap();
    assert!(cases.len() > 100);
    for case in cases {
        let what = format!("{} by {}, prompt {}", case.name, case.template, case.prompt);
        let turns = turns(&case.record);
        let rendered = template(&case.template).render(&turns.messages, &turns.more, case.prompt);
        if let Some(words) = case.refused {
            let refused = rendered.expect_err(&what);
            // What transformers says of Python's values is said in other words here.
            let python = words.contains("has no attribute");
            assert!(python || refused.contains(&words), "{what}: {refused}");
            continue;
        }
        let rendered = rendered.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(rendered.text, case.text.unwrap(), "{what}");
        let chars = |at: usize| rendered.text[..at].chars().count();
        let spans = rendered.generated.iter();
        let spans: Vec<[usize; 2]> = spans.map(|s| [chars(s.start), chars(s.end)]).collect();
        assert_eq!(spans, case.spans.unwrap_or_default(), "{what}");
    }
}
