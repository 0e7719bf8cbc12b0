use super::*;
use crate::json::span::Nesting;

fn text(record: &str, field: &str) -> Option<String> {
    let mut json = serde_json::Deserializer::from_str(record);
    match wanted(&mut json, field).unwrap() {
        Found::Text(text) => Some(text),
        _ => None,
    }
}

#[test]
fn a_field_may_lie_in_others() {
    let record =
        r#"{"a": {"b": "in", "c": [{"d": "first"}, {"d": "second"}]}, "a.b": "literal", "n": 1}"#;
    for (field, expected) in [
        ("a.b", Some("literal")),
        ("a.c.1.d", Some("second")),
        ("a.c.2.d", None),
        ("a.c.d", None),
        ("a", None),
        ("n", None),
        ("n.x", None),
        ("b", None),
    ] {
        assert_eq!(text(record, field).as_deref(), expected, "{field}");
    }
    let nested = r#"{"x.y": {"z": "longest"}, "x": {"y.z": "short", "y": {"z": "shorter"}}}"#;
    assert_eq!(text(nested, "x.y.z").as_deref(), Some("longest"));
    assert_eq!(
        text(r#"{"t":"one","t":"two"}"#, "t").as_deref(),
        Some("two")
    );
}

#[test]
fn shapes_are_told_by_the_beginning() {
    for (head, whole, expected) in [
        ("{\"a\":1}\n{\"a\":2}\n", true, Some(Shape::Lines)),
        ("\n {\"a\":1}", true, Some(Shape::Lines)),
        (
            "{\n  \"a\": 1\n}\n{\n  \"a\": 2\n}",
            true,
            Some(Shape::Values),
        ),
        (
            "{\n  \"a\": [\n    {\"b\": 1}\n",
            false,
            Some(Shape::Values),
        ),
        ("[{\"a\": 1}, {", false, Some(Shape::Values)),
        ("[\n{\"a\": 1},\n{\"a\": 2}\n]\n", true, Some(Shape::Values)),
        ("[]", true, Some(Shape::Values)),
        ("{\"a\": \"bro\n{\"a\": 1}\n", true, Some(Shape::Lines)),
        ("{\"a\": \"a long te", false, Some(Shape::Values)),
        ("{ x }", true, None),
        ("[1] A footnote", true, None),
        ("[{x}]", true, None),
        ("text", true, None),
        ("", true, None),
    ] {
        assert_eq!(shape(head, whole), expected, "{head}");
    }
}

#[test]
fn a_text_is_json_only_if_that_is_plain() {
    let cases = [
        ("{\"a\":1}\n{\"a\":2}\n", Some(Shape::Lines)),
        ("{\"a\":1}\n", None),
        ("{\"text\":\"x\"}\n", Some(Shape::Lines)),
        ("[{\"text\":\"x\"}]", Some(Shape::Values)),
        ("{\"a\":1}\nand then\n", None),
        ("[{\"a\":1}]", None),
    ];
    for (head, expected) in cases {
        assert_eq!(plain_shape(head, true, "text"), expected, "{head}");
    }
}

#[test]
fn the_end_of_a_value_is_found_across_pieces() {
    let value = br#"{"a": "}\\\"]", "b": [{}, 1]}"#;
    for cut in 0..value.len() {
        let mut nesting = Nesting::default();
        assert_eq!(nesting.scan(&value[..cut]), None, "{cut}");
        let rest = [&value[cut..], b" {"].concat();
        assert_eq!(nesting.scan(&rest), Some(value.len() - cut), "{cut}");
        assert_eq!(nesting.deepest, 3);
    }
}
