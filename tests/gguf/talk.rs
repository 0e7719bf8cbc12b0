//! Conversations: at the command line, and over HTTP.

use super::{exported, write_wide};
use crate::common::lab::{Lab, assert_clear_error, stderr};
use aios_train::export::Numbers;
use serde_json::Value;
use std::io::Write;
use std::process::{Output, Stdio};

/// What `aios chat` answers to these lines.
fn chat(lab: &Lab, flags: &str, lines: &str) -> Output {
    let mut command = lab.command(&format!("chat --device cpu --max-new-tokens 6 {flags}"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn answers(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", stderr(output));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_conversation_goes_on_and_begins_anew() {
    let lab = Lab::new();
    let wide = write_wide(&lab);
    exported(&wide, Numbers::Q8_0, &lab.path("m.gguf"));
    let lines = "one\ntwo\n\n/save said.jsonl\n/reset\none\n/quit\nnever\n";
    let said = answers(&chat(&lab, "m.gguf --temperature 0 --json", lines));
    assert_eq!(said.len(), 3);
    let read = |at: usize| said[at]["prompt_tokens"].as_u64().unwrap();
    assert!(read(1) > read(0) + 6 && read(2) == read(0), "{said:?}");
    assert_eq!(said[0]["answer"], said[2]["answer"]);
    // The second turn is what the whole conversation, read at once, is answered by.
    let record = std::fs::read_to_string(lab.path("said.jsonl")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    let messages = record["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 4);
    assert_eq!(messages[3]["content"], said[1]["answer"]);
    let prompt: String = (messages[..3].iter())
        .map(|m| {
            format!(
                "[{}] {}\n",
                m["role"].as_str().unwrap(),
                m["content"].as_str().unwrap()
            )
        })
        .collect();
    lab.write("prompt.txt", prompt + "[assistant] ");
    let mut command = lab.command(
        "generate m.gguf --temperature 0 --max-new-tokens 6 --device cpu --json --prompt -",
    );
    command.stdin(std::fs::File::open(lab.path("prompt.txt")).unwrap());
    let output = command.output().unwrap();
    let whole: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(whole["text"], said[1]["answer"]);
}

#[test]
fn two_answer_side_by_side() {
    let lab = Lab::new();
    write_wide(&lab);
    lab.succeed(
        "finetune --model wide --dataset-file text.txt --lora-rank 2 --steps 2 --max-seq-len 32 --batch-size 1 --lr 1e-1 \
         --device cpu --quiet --save-dir taught",
    );
    let flags = "--model wide --adapter none --adapter taught --temperature 0";
    let said = answers(&chat(&lab, &format!("{flags} --json"), "one\n"));
    let models: Vec<&str> = said
        .iter()
        .map(|said| said["model"].as_str().unwrap())
        .collect();
    assert_eq!(models, ["none", "taught"]);
    let output = chat(&lab, flags, "one\n");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.starts_with("[none]\n") && text.contains("\n[taught]\n"),
        "{text}"
    );
}

#[test]
fn what_cannot_be_said_is_an_error() {
    let lab = Lab::new();
    let wide = write_wide(&lab);
    let refused = |flags: &str, lines: &str, code: i32, words: &[&str]| {
        assert_clear_error(&chat(&lab, flags, lines), code, words);
    };
    refused("wide", "/save elsewhere.txt\n", 2, &["/save", ".jsonl"]);
    refused("wide", "/fly\n", 2, &["/fly", "/help"]);
    refused("wide", "/regen\n", 2, &["no answer yet"]);
    refused(
        "wide --max-seq-len 8",
        "a question that is longer than that\n",
        2,
        &["--max-seq-len"],
    );
    refused("--adapter none", "a\n", 2, &["--adapter none"]);
    for name in ["chat_template.jinja", "tokenizer_config.json"] {
        std::fs::remove_file(wide.join(name)).unwrap();
    }
    refused("wide", "a\n", 2, &["chat template", "--chat-template"]);
}

#[cfg(unix)]
mod served {
    use super::*;
    use std::io::{BufRead, BufReader, Read};
    use std::net::TcpStream;
    use std::process::{Child, Command};

    /// A server that is ended with the test.
    struct Server {
        child: Child,
        address: String,
    }

    impl Server {
        fn start(lab: &Lab, flags: &str) -> Self {
            let mut command = lab.command(&format!("serve --port 0 --device cpu {flags}"));
            let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
            let address = lines.find_map(|line| {
                let line = line.unwrap();
                let rest = line.split_once("http://")?.1;
                Some(rest.split_once("/v1")?.0.to_string())
            });
            std::thread::spawn(move || lines.for_each(drop));
            Self {
                child,
                address: address.expect("it says where it is"),
            }
        }

        fn ask(&self, request: &str, headers: &str, body: &str) -> (u16, String) {
            let mut stream = TcpStream::connect(&self.address).unwrap();
            let host = &self.address;
            let length = body.len();
            let text = format!(
                "{request} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\n\
                 content-length: {length}\r\n{headers}\r\n{body}"
            );
            stream.write_all(text.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
            let body = answer.split_once("\r\n\r\n").unwrap().1;
            (status, body.to_string())
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    #[test]
    fn a_model_answers_over_http_and_ends_with_ctrl_c() {
        let lab = Lab::new();
        let wide = write_wide(&lab);
        exported(&wide, Numbers::Q8_0, &lab.path("m.gguf"));
        let mut server = Server::start(&lab, "m.gguf --api-key secret --temperature 0");
        let question = r#"{"messages": [{"role": "user", "content": "one"}], "max_tokens": 6}"#;
        let at = "POST /v1/chat/completions";
        assert_eq!(server.ask(at, "", question).0, 401);
        let key = "authorization: Bearer secret\r\n";
        let (status, body) = server.ask(at, key, question);
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer["model"], "m");
        let said = answers(&chat(&lab, "m.gguf --temperature 0 --json", "one\n"));
        assert_eq!(
            answer["choices"][0]["message"]["content"],
            said[0]["answer"]
        );
        assert_eq!(answer["usage"]["prompt_tokens"], said[0]["prompt_tokens"]);
        let long = format!(
            r#"{{"messages": [{{"role": "user", "content": "{}"}}]}}"#,
            "word ".repeat(2000)
        );
        let (status, body) = server.ask(at, key, &long);
        assert!(
            status == 400 && body.contains("longest text"),
            "{status} {body}"
        );
        let (status, body) = server.ask(
            "POST /v1/completions",
            key,
            r#"{"prompt": "abc", "max_tokens": 3}"#,
        );
        assert!(
            status == 200 && body.contains("text_completion"),
            "{status} {body}"
        );
        let id = server.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &id])
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(server.child.wait().unwrap().code(), Some(0));
    }

    #[test]
    fn others_are_let_in_with_a_key_alone() {
        let lab = Lab::new();
        let output = lab.run("serve nowhere --host 0.0.0.0 --port 0");
        assert_clear_error(&output, 2, &["--host 0.0.0.0", "--api-key"]);
        let output = lab.run("serve nowhere --port 0");
        assert_clear_error(&output, 1, &["nowhere"]);
    }
}
