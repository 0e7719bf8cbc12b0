//! Which bytes of a conversation's text are learnt.

use std::ops::Range;

use crate::between;
use crate::record::Turns;
use crate::template::{Template, Text};
use aios_base::config::TrainOn;

/// A conversation's text, and what of it is learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Masked {
    pub text: String,
    pub trained: Vec<Range<usize>>,
    /// A span reaches up to the next turn, and so may end in blanks that the template puts behind the end of each.
    pub to_next_turn: bool,
}

/// The text of a conversation and the spans of `train_on`: those that the template marks, else what it puts behind the text
/// up to an answer, with what an answer begins with, up to the end of the text with that answer. Where these texts are not
/// what the text of all messages begins with, an answer is looked for [between] the messages around it.
///
/// # Errors
/// What the template has against it, or that an answer cannot be told from the rest.
pub(crate) fn masked(
    template: &Template,
    turns: &Turns,
    train_on: TrainOn,
) -> Result<Masked, String> {
    let render = |count: usize, prompt: bool| {
        let messages = &turns.messages[..count];
        template.render(messages, &turns.more, prompt)
    };
    let Text { text, generated } = render(turns.messages.len(), false)?;
    let answers = turns.answers();
    let answers = match (train_on, answers.split_last()) {
        (TrainOn::All, _) => {
            let all = 0..text.len();
            return Ok(Masked {
                text,
                trained: vec![all],
                to_next_turn: false,
            });
        }
        (TrainOn::Last, Some((last, _))) => std::slice::from_ref(last),
        _ => &answers[..],
    };
    let Some(&first) = answers.first() else {
        return Ok(Masked {
            text,
            trained: Vec::new(),
            to_next_turn: false,
        });
    };
    if template.marks() {
        let all = train_on == TrainOn::Assistant && turns.given == 0;
        let before = match all || first == 0 {
            true => 0,
            false => render(first, false)?.generated.len(),
        };
        return Ok(Masked {
            trained: generated.into_iter().skip(before).collect(),
            text,
            to_next_turn: false,
        });
    }
    let mut trained = Vec::new();
    for &answer in answers {
        let begins = render(answer, true)?.text;
        let ends = match answer + 1 == turns.messages.len() {
            true => text.clone(),
            false => render(answer + 1, false)?.text,
        };
        let follows = begins.len() <= ends.len();
        trained.push(
            match follows && text.starts_with(&begins) && text.starts_with(&ends) {
                true => begins.len()..ends.len(),
                false => between::span(template, turns, &text, answer)
                    .map_err(|why| untold(answer, &why))?,
            },
        );
    }
    if !trained.is_sorted_by(|one, next| one.end <= next.start) {
        return Err("the template writes its answers in another order".to_string());
    }
    Ok(Masked {
        text,
        trained,
        to_next_turn: true,
    })
}

fn untold(answer: usize, why: &str) -> String {
    format!(
        "the template's text up to message {} is not what its text of all messages begins with, and {why}, so that its \
         answers cannot be told from the rest: mark them by {{% generation %}} in a --chat-template of your own, or take \
         --train-on last or all",
        answer + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Content, understood};
    use aios_base::config::RecordForm;

    const PLAIN: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>\n{% endfor %}\
                         {% if add_generation_prompt %}<assistant>{% endif %}";
    const MARKED: &str = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}\
                          {% generation %}{{ m.content }}</>{% endgeneration %}{% else %}{{ m.content }}</>{% endif %}\n\
                          {% endfor %}";

    fn turns(json: &str, form: RecordForm) -> Turns {
        match understood(json, form).unwrap() {
            Content::Turns(turns) => turns,
            other => panic!("{other:?}"),
        }
    }

    const TALK: &str = r#"{"messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}"#;

    fn learnt(source: &str, turns: &Turns, train_on: TrainOn) -> Vec<String> {
        let template = Template::new(source, &[]).unwrap();
        let Masked { text, trained, .. } = masked(&template, turns, train_on).unwrap();
        trained
            .into_iter()
            .map(|span| text[span].to_string())
            .collect()
    }

    #[test]
    fn answers_are_learnt_with_what_ends_them() {
        let talk = turns(TALK, RecordForm::Messages);
        // A template's lines end behind the end of a turn.
        assert_eq!(
            learnt(PLAIN, &talk, TrainOn::Assistant),
            ["b</>\n", "d</>\n"]
        );
        assert_eq!(learnt(PLAIN, &talk, TrainOn::Last), ["d</>\n"]);
        assert_eq!(learnt(MARKED, &talk, TrainOn::Assistant), ["b</>", "d</>"]);
        assert_eq!(learnt(MARKED, &talk, TrainOn::Last), ["d</>"]);
        let all = learnt(MARKED, &talk, TrainOn::All);
        assert_eq!(all, ["<user>a</><assistant>b</><user>c</><assistant>d</>"]);
    }

    #[test]
    fn answers_of_the_prompt_are_given() {
        let json = r#"{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"}], "completion": [{"role": "assistant", "content": "d"}]}"#;
        let talk = turns(json, RecordForm::PromptCompletion);
        for source in [PLAIN, MARKED] {
            let learnt = learnt(source, &talk, TrainOn::Assistant);
            assert_eq!(learnt.concat().trim_end(), "d</>");
        }
    }

    #[test]
    fn what_is_not_a_beginning_is_an_error() {
        let source = "{% for m in messages %}{{ messages | length }}{{ m.content }}{% endfor %}";
        let template = Template::new(source, &[]).unwrap();
        let talk = turns(TALK, RecordForm::Messages);
        let error = masked(&template, &talk, TrainOn::Assistant).unwrap_err();
        assert!(
            error.contains("message 2") && error.contains("generation"),
            "{error}"
        );
    }

    /// Two questions, the answers to which are thought about, and a tool that is called for the third.
    const THOUGHTS: &str = r#"{"messages": [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "<think>\neasy\n</think>\n\n2"},
        {"role": "user", "content": " 2 + 2? "},
        {"role": "assistant", "content": "4", "reasoning": "twice two"},
        {"role": "user", "content": "3 * 3?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "times", "arguments": "3"}}]},
        {"role": "tool", "content": "9"},
        {"role": "assistant", "content": "9"},
        {"role": "user", "content": "5?"},
        {"role": "assistant", "content": "<think>\nno more\n</think>\n\n5"}]}"#;

    fn thinking() -> String {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        std::fs::read_to_string(folder.join("thoughts.jinja")).unwrap()
    }

    #[test]
    fn answers_whose_reasoning_is_dropped_are_learnt_as_they_stand() {
        let source = thinking();
        let talk = turns(THOUGHTS, RecordForm::Messages);
        // Worked out by hand: only the last answer keeps its thought.
        let expected = [
            "2<|im_end|>\n",
            "4<|im_end|>\n",
            "<tool_call>\n{\"name\": \"times\", \"arguments\": 3}\n</tool_call><|im_end|>\n",
            "9<|im_end|>\n",
            "<think>\nno more\n</think>\n\n5<|im_end|>\n",
        ];
        assert_eq!(learnt(&source, &talk, TrainOn::Assistant), expected);
        assert_eq!(learnt(&source, &talk, TrainOn::Last), expected[4..]);
        let template = Template::new(&source, &[]).unwrap();
        let Masked { text, trained, .. } = masked(&template, &talk, TrainOn::Assistant).unwrap();
        for span in &trained {
            assert!(
                text[..span.start].ends_with("<|im_start|>assistant\n"),
                "{text}"
            );
        }
    }

    /// Tools that are called in between keep thoughts, and a turn without any has an empty one while it is the last.
    #[test]
    fn thoughts_between_calls_of_tools_are_learnt() {
        let json = r#"{"messages": [
            {"role": "user", "content": "3 * 3?"},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "times", "arguments": "3"}}]},
            {"role": "tool", "content": "9"},
            {"role": "assistant", "content": "wait", "reasoning_content": "is it?"},
            {"role": "tool", "content": "9!"},
            {"role": "assistant", "content": "9"}]}"#;
        let expected = [
            "<tool_call>\n{\"name\": \"times\", \"arguments\": 3}\n</tool_call><|im_end|>\n",
            "<think>\nis it?\n</think>\n\nwait<|im_end|>\n",
            "<think>\n\n</think>\n\n9<|im_end|>\n",
        ];
        let talk = turns(json, RecordForm::Messages);
        assert_eq!(learnt(&thinking(), &talk, TrainOn::Assistant), expected);
    }

    /// What looks like the end of a turn or the beginning of an answer is never taken for it.
    #[test]
    fn what_could_be_told_wrongly_is_an_error() {
        let template = Template::new(&thinking(), &[]).unwrap();
        for answer in ["4<|im_end|>\nx", "<|im_start|>assistant\n4"] {
            let talk = json_of(&["a", "<think>\nb\n</think>\n\nc", "d", answer, "e", "f"]);
            let talk = turns(&talk, RecordForm::Messages);
            let error = masked(&template, &talk, TrainOn::Assistant).unwrap_err();
            assert!(
                error.contains("twice") && error.contains("--train-on last"),
                "{error}"
            );
            let last = masked(&template, &talk, TrainOn::Last).unwrap();
            assert_eq!(last.trained.len(), 1);
        }
    }

    /// Messages of a user and an assistant by turns.
    fn json_of(contents: &[&str]) -> String {
        let roles = ["user", "assistant"].into_iter().cycle();
        let messages = roles.zip(contents);
        let messages =
            messages.map(|(role, content)| serde_json::json!({"role": role, "content": content}));
        serde_json::json!({"messages": messages.collect::<Vec<_>>()}).to_string()
    }
}
