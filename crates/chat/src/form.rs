//! The form of a record, told by its fields.

use aios_base::config::RecordForm;

/// Fields that a form has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Those without which it is another form.
    pub needed: &'static [&'static str],
    /// Those that may be there as well.
    pub others: &'static [&'static str],
}

/// In the order in which they are looked for.
const FORMS: [RecordForm; 4] = [
    RecordForm::Messages,
    RecordForm::Conversations,
    RecordForm::PromptCompletion,
    RecordForm::Instruction,
];

impl Columns {
    /// Those of a form; none of text, whose field has any name.
    pub fn of(form: RecordForm) -> Self {
        let (needed, others): (&[&str], &[&str]) = match form {
            RecordForm::Auto | RecordForm::Text => (&[], &[]),
            RecordForm::Messages => (&["messages"], &["tools", "chat_template_kwargs"]),
            RecordForm::Conversations => (&["conversations"], &["system", "tools"]),
            RecordForm::PromptCompletion => (
                &["prompt", "completion"],
                &["tools", "chat_template_kwargs"],
            ),
            RecordForm::Instruction => (&["instruction", "output"], &["input", "system"]),
        };
        Self { needed, others }
    }
}

/// The form of a record with these fields; nothing if it is none of those that are known.
pub fn recognise(fields: &[String]) -> Option<RecordForm> {
    let has = |name: &&str| fields.iter().any(|field| field == name);
    let fits = |form: &RecordForm| Columns::of(*form).needed.iter().all(has);
    FORMS.into_iter().find(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_tell_the_form() {
        let cases = [
            ("messages id", Some(RecordForm::Messages)),
            ("id conversations", Some(RecordForm::Conversations)),
            ("completion prompt", Some(RecordForm::PromptCompletion)),
            ("instruction input output", Some(RecordForm::Instruction)),
            ("prompt", None),
            ("instruction input", None),
            ("text", None),
        ];
        for (fields, form) in cases {
            let fields: Vec<String> = fields.split(' ').map(str::to_string).collect();
            assert_eq!(recognise(&fields), form, "{fields:?}");
        }
    }
}
