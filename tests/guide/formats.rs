//! The fields of metrics that the guide describes are those that are written.

use serde_json::Value;

use super::page::Page;
use crate::common::lab::Lab;

#[test]
fn every_field_of_a_metrics_file_is_described() {
    let lab = Lab::new();
    lab.train("a", "--steps 2 --eval-file text.txt --sample-every 1");
    lab.train("a", "--resume --steps 3 --lr 1e-4");
    let text = std::fs::read_to_string(lab.path("a.jsonl")).unwrap();
    let page = Page::read("docs/formats.md");
    let mut kinds = 0;
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let kind = event["event"].as_str().unwrap();
        assert!(page.contains(&format!("`{kind}`")), "{kind}");
        kinds += 1;
        for name in names(&event) {
            assert!(page.contains(&format!("`{name}`")), "{kind}: {name}");
        }
    }
    assert!(kinds > 8, "{text}");
}

/// Names of fields and of those within them, but for the settings, which the flags' help describes.
fn names(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (name, inner) in value.as_object().into_iter().flatten() {
        found.push(name.clone());
        if name != "config" {
            found.extend(names(inner));
        }
    }
    found
}
