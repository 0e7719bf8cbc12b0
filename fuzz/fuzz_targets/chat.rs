//! Records of conversations, by templates that use much of what there is.

#![no_main]

use std::sync::LazyLock;

use aios_base::config::{ChatOptions, RecordForm, TrainOn};
use aios_chat::Chat;
use aios_fuzz::{choice, in_proportion};
use libfuzzer_sys::fuzz_target;

const FORMS: [RecordForm; 4] = [
    RecordForm::Messages,
    RecordForm::Conversations,
    RecordForm::PromptCompletion,
    RecordForm::Instruction,
];
const TEMPLATES: [&str; 4] = [
    include_str!("../../crates/chat/testdata/tools.jinja"),
    include_str!("../../crates/chat/testdata/generation.jinja"),
    include_str!("../../crates/chat/testdata/turns.jinja"),
    include_str!("../../crates/chat/testdata/thoughts.jinja"),
];
const TRAIN_ON: [TrainOn; 3] = [TrainOn::All, TrainOn::Assistant, TrainOn::Last];

static CHATS: LazyLock<Vec<Chat>> = LazyLock::new(|| {
    let mut chats = Vec::new();
    for form in FORMS {
        for template in TEMPLATES {
            for train_on in TRAIN_ON {
                let options = ChatOptions {
                    form,
                    train_on,
                    template: Some(template.to_string()),
                    tokens: Vec::new(),
                };
                chats.push(Chat::new(&options).expect("a template that is right"));
            }
        }
    }
    chats
});

fuzz_target!(|input: &[u8]| {
    LazyLock::force(&CHATS);
    in_proportion(input, || read(input));
});

fn read(input: &[u8]) {
    let Some((choice, json)) = choice(input) else {
        return;
    };
    let Ok(json) = std::str::from_utf8(json) else {
        return;
    };
    let Ok(rendered) = CHATS[usize::from(choice) % CHATS.len()].render(json) else {
        return;
    };
    let mut end = 0;
    for span in rendered.trained {
        assert!(end <= span.start && span.start <= span.end, "spans in order");
        assert!(rendered.text.get(span.clone()).is_some(), "spans of whole characters");
        end = span.end;
    }
}
