//! What stands in a record: turns of a conversation, or a prompt and what completes it.

use aios_base::config::RecordForm;
use minijinja::Value;
use minijinja::value::ValueKind;

/// Names of the assistant among roles.
pub(crate) const ASSISTANT: [&str; 2] = ["assistant", "model"];
/// Names of those whom templates know besides.
const OTHERS: [&str; 8] = [
    "system",
    "developer",
    "user",
    "tool",
    "function",
    "ipython",
    "observation",
    "environment",
];
/// Names under which a message's reasoning is passed; the first is what templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A record that was understood.
#[derive(Debug)]
pub(crate) enum Content {
    Turns(Turns),
    /// Two texts, the second of which is learnt.
    Pair {
        prompt: String,
        completion: String,
    },
}

/// A conversation.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Objects with `role` and `content`.
    pub messages: Vec<Value>,
    /// How many of them are given rather than learnt, whoever says them.
    pub given: usize,
    /// Variables of the template: `tools` and others.
    pub more: Vec<(String, Value)>,
}

impl Turns {
    /// Numbers of the messages that are the assistant's to say.
    pub fn answers(&self) -> Vec<usize> {
        let learnt = (self.given..self.messages.len()).filter(|&at| {
            let role = role(&self.messages[at]);
            role.is_some_and(|role| ASSISTANT.contains(&role.as_str()))
        });
        learnt.collect()
    }

    /// The first role that is nobody's, such as a misspelt one: templates take it all the same, and nothing of it is learnt.
    pub fn unknown_role(&self) -> Option<String> {
        let known = |role: &String| [&ASSISTANT[..], &OTHERS].concat().contains(&role.as_str());
        self.messages
            .iter()
            .filter_map(role)
            .find(|role| !known(role))
    }
}

fn role(message: &Value) -> Option<String> {
    message.get_attr("role").ok()?.as_str().map(str::to_string)
}

/// A record, which is an object in JSON, of this form.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn understood(json: &str, form: RecordForm) -> Result<Content, String> {
    let record: Value = serde_json::from_str(json).map_err(|cause| {
        let cause = cause.to_string();
        format!("not valid JSON: {cause}")
    })?;
    if record.kind() != ValueKind::Map {
        return Err("not a JSON object".to_string());
    }
    let record = Record(record);
    match form {
        RecordForm::Messages => {
            let messages = record.messages("messages")?;
            record.turns(messages, 0)
        }
        RecordForm::Conversations => record.share_gpt(),
        RecordForm::PromptCompletion => record.prompt_completion(),
        RecordForm::Instruction => record.instruction(),
        RecordForm::Auto | RecordForm::Text => Err("it holds no conversation".to_string()),
    }
}

struct Record(Value);

impl Record {
    /// What is in a field, if that is there and not null.
    fn get(&self, field: &str) -> Option<Value> {
        let value = self.0.get_attr(field).ok()?;
        (!value.is_undefined() && !value.is_none()).then_some(value)
    }

    fn needed(&self, field: &str) -> Result<Value, String> {
        self.get(field)
            .ok_or_else(|| format!("no field \"{field}\""))
    }

    fn text(&self, field: &str) -> Result<Option<String>, String> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        match value.as_str() {
            Some(text) => Ok(Some(text.to_string())),
            None => Err(format!(
                "field \"{field}\" is not a string but {}",
                value.kind()
            )),
        }
    }

    fn needed_text(&self, field: &str) -> Result<String, String> {
        let text = self.text(field)?;
        text.ok_or_else(|| format!("no field \"{field}\""))
    }

    fn messages(&self, field: &str) -> Result<Vec<Value>, String> {
        let list = parsed(self.needed(field)?)?;
        if list.kind() != ValueKind::Seq {
            return Err(format!(
                "field \"{field}\" is not a list but {}",
                list.kind()
            ));
        }
        let messages: Vec<Value> = list.try_iter().map_err(|e| e.to_string())?.collect();
        if messages.is_empty() {
            return Err(format!("field \"{field}\" has no message"));
        }
        let messages = messages.iter().enumerate();
        let checked = messages.map(|(at, message)| {
            normal(message).map_err(|what| format!("message {} of \"{field}\": {what}", at + 1))
        });
        checked.collect()
    }

    /// With what else a template may ask for.
    fn turns(&self, messages: Vec<Value>, given: usize) -> Result<Content, String> {
        let mut more = Vec::new();
        for field in ["tools", "documents"] {
            if let Some(value) = self.get(field) {
                more.push((field.to_string(), parsed(value)?));
            }
        }
        if let Some(values) = self.get("chat_template_kwargs") {
            let values = parsed(values)?;
            for name in values.try_iter().map_err(|e| e.to_string())? {
                let value = values.get_item(&name).map_err(|e| e.to_string())?;
                more.push((name.to_string(), value));
            }
        }
        Ok(Content::Turns(Turns {
            messages,
            given,
            more,
        }))
    }

    fn share_gpt(&self) -> Result<Content, String> {
        let field = "conversations";
        let list = parsed(self.needed(field)?)?;
        let said = list
            .try_iter()
            .map_err(|_| format!("field \"{field}\" is not a list"))?;
        let mut messages = Vec::new();
        if let Some(system) = self.text("system")? {
            messages.push(message("system", &system));
        }
        for (at, one) in said.enumerate() {
            let wrong = |what: &str| format!("message {} of \"{field}\": {what}", at + 1);
            let text = |name: &str| {
                let value = one.get_attr(name).ok()?;
                value.as_str().map(str::to_string)
            };
            let from = text("from").ok_or_else(|| wrong("no \"from\""))?;
            let value = text("value").ok_or_else(|| wrong("no \"value\""))?;
            let role = role_of(&from).ok_or_else(|| {
                wrong(&format!(
                    "it is from {from:?}; known are human, gpt, system, tool and their other names"
                ))
            })?;
            messages.push(message(role, &value));
        }
        match messages.is_empty() {
            true => Err(format!("field \"{field}\" has no message")),
            false => self.turns(messages, 0),
        }
    }

    fn prompt_completion(&self) -> Result<Content, String> {
        let [prompt, completion] = ["prompt", "completion"].map(|field| self.needed(field));
        let (prompt, completion) = (prompt?, completion?);
        match (prompt.as_str(), completion.as_str()) {
            (Some(prompt), Some(completion)) if !is_list(prompt) => Ok(Content::Pair {
                prompt: prompt.to_string(),
                completion: completion.to_string(),
            }),
            _ => {
                let prompt = self.messages("prompt")?;
                let completion = self.messages("completion")?;
                let given = prompt.len();
                self.turns([prompt, completion].concat(), given)
            }
        }
    }

    fn instruction(&self) -> Result<Content, String> {
        let instruction = self.needed_text("instruction")?;
        let output = self.needed_text("output")?;
        let question = match self.text("input")? {
            Some(input) if !input.trim().is_empty() => format!("{instruction}\n\n{input}"),
            _ => instruction,
        };
        let system = self.text("system")?;
        let mut messages: Vec<Value> = system.iter().map(|text| message("system", text)).collect();
        messages.push(message("user", &question));
        messages.push(message("assistant", &output));
        self.turns(messages, 0)
    }
}

fn is_list(text: &str) -> bool {
    text.trim_start().starts_with("[{")
}

/// A list or object, which tables hold as a text.
fn parsed(value: Value) -> Result<Value, String> {
    match value.as_str() {
        Some(text) => serde_json::from_str(text)
            .map_err(|cause| format!("a text where a list is wanted, and it is no JSON: {cause}")),
        None => Ok(value),
    }
}

/// A message of this role.
pub(crate) fn message(role: &str, content: &str) -> Value {
    let pairs = [("role", role), ("content", content)];
    Value::from_pairs(pairs.map(|(name, text)| (name, Value::from(text))))
}

/// The role of ShareGPT's names.
fn role_of(from: &str) -> Option<&'static str> {
    Some(match from {
        "human" | "user" => "user",
        "gpt" | "assistant" | "chatgpt" | "model" | "bot" => "assistant",
        "system" => "system",
        "tool" | "observation" | "function_response" => "tool",
        _ => return None,
    })
}

/// A message as templates get it: without fields that are null, its reasoning under the names that are asked for.
fn normal(message: &Value) -> Result<Value, String> {
    if message.kind() != ValueKind::Map {
        return Err("not an object".to_string());
    }
    let mut fields = Vec::new();
    for name in message.try_iter().map_err(|e| e.to_string())? {
        let value = message.get_item(&name).map_err(|e| e.to_string())?;
        if !value.is_none() {
            fields.push((name.to_string(), value));
        }
    }
    let find = |name: &str, fields: &[(String, Value)]| {
        let found = fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.clone())
    };
    if find("role", &fields).is_none_or(|role| role.as_str().is_none()) {
        return Err("no \"role\"".to_string());
    }
    if let Some(reasoning) = REASONING.iter().find_map(|name| find(name, &fields)) {
        fields.retain(|(name, _)| name != REASONING[0]);
        if find(REASONING[1], &fields).is_none() {
            fields.insert(0, (REASONING[1].to_string(), reasoning.clone()));
        }
        fields.push((REASONING[0].to_string(), reasoning));
    }
    Ok(Value::from_pairs(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(json: &str, form: RecordForm) -> Vec<(String, String)> {
        let Content::Turns(turns) = understood(json, form).unwrap() else {
            panic!("no turns");
        };
        let text = |message: &Value, name: &str| {
            let value = message.get_attr(name).unwrap();
            value.as_str().unwrap().to_string()
        };
        let messages = turns.messages.iter();
        messages
            .map(|m| (text(m, "role"), text(m, "content")))
            .collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = expected.iter().map(|(a, b)| (a.to_string(), b.to_string()));
        owned.collect()
    }

    #[test]
    fn every_form_becomes_turns() {
        let share = r#"{"system": "s", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}"#;
        let expected = pairs(&[("system", "s"), ("user", "q"), ("assistant", "a")]);
        assert_eq!(said(share, RecordForm::Conversations), expected);
        let alpaca = r#"{"instruction": "do", "input": "this", "output": "done"}"#;
        let expected = pairs(&[("user", "do\n\nthis"), ("assistant", "done")]);
        assert_eq!(said(alpaca, RecordForm::Instruction), expected);
        let bare = r#"{"instruction": "do", "input": null, "output": "done"}"#;
        let expected = pairs(&[("user", "do"), ("assistant", "done")]);
        assert_eq!(said(bare, RecordForm::Instruction), expected);
        // As a table has it.
        let text = r#"{"messages": "[{\"role\": \"user\", \"content\": \"q\"}]"}"#;
        assert_eq!(said(text, RecordForm::Messages), pairs(&[("user", "q")]));
    }

    #[test]
    fn a_role_that_is_nobodys_is_found() {
        let of = |role: &str| {
            let json = format!(
                r#"{{"messages": [{{"role": "user", "content": "q"}}, {{"role": "{role}", "content": "a"}}]}}"#
            );
            match understood(&json, RecordForm::Messages).unwrap() {
                Content::Turns(turns) => turns.unknown_role(),
                Content::Pair { .. } => None,
            }
        };
        for known in ["assistant", "model", "tool", "system"] {
            assert_eq!(of(known), None);
        }
        assert_eq!(of("asistant").as_deref(), Some("asistant"));
        assert_eq!(of("human").as_deref(), Some("human"));
    }

    #[test]
    fn a_prompt_and_its_completion_stand_as_they_are() {
        let json = r#"{"prompt": "1 + 1 =", "completion": " 2"}"#;
        match understood(json, RecordForm::PromptCompletion).unwrap() {
            Content::Pair { prompt, completion } => {
                assert_eq!((&*prompt, &*completion), ("1 + 1 =", " 2"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = [
            (r#"{"messages": []}"#, RecordForm::Messages, "no message"),
            (r#"{"messages": 7}"#, RecordForm::Messages, "not a list"),
            (r#"{"messages": [7]}"#, RecordForm::Messages, "message 1"),
            (
                r#"{"messages": [{"content": "x"}]}"#,
                RecordForm::Messages,
                "role",
            ),
            (r#"[]"#, RecordForm::Messages, "object"),
            (
                r#"{"conversations": [{"from": "cat", "value": ""}]}"#,
                RecordForm::Conversations,
                "cat",
            ),
            (
                r#"{"prompt": "x"}"#,
                RecordForm::PromptCompletion,
                "completion",
            ),
            (
                r#"{"instruction": 1, "output": ""}"#,
                RecordForm::Instruction,
                "instruction",
            ),
        ];
        for (json, form, words) in wrong {
            let error = understood(json, form).unwrap_err();
            assert!(
                error.contains(words) && !error.contains('\n'),
                "{json}: {error}"
            );
        }
    }
}
