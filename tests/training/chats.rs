//! `aios finetune` on conversations: what is learnt of them, packed or not, and what is saved.

use crate::common::lab::{Events, Lab, assert_clear_error, assert_same_brain, stderr};
use crate::common::root;
use crate::decoders::assert_near;
use serde_json::{Value, json};

const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Conversations of several lengths, and their template.
fn lab() -> Lab {
    let lab = Lab::new();
    let line = |n: usize| {
        let say = |role: &str, content: String| json!({"role": role, "content": content});
        let turns = (0..1 + n % 2).flat_map(|turn| {
            let question = "why ".repeat(1 + (n + turn) % 4);
            [say("user", question), say("assistant", format!("{n}."))]
        });
        let messages: Vec<Value> = turns.collect();
        format!("{}\n", json!({"messages": messages}))
    };
    lab.write("chat.jsonl", (0..12).map(line).collect::<String>());
    lab.write("chat.jinja", TEMPLATE);
    lab
}

fn line(model: &str, flags: &str) -> String {
    let model = root().join("tests/golden/decoders/a").join(model);
    format!(
        "finetune --model {} --chat-template chat.jinja --lr 1e-3 --lr-schedule constant --warmup-steps 0 --no-amp --device cpu --bundle-dir brains \
         --max-seq-len 96 {flags}",
        model.display()
    )
}

fn train(lab: &Lab, model: &str, name: &str, flags: &str) -> Events {
    lab.succeed(&line(
        model,
        &format!(
            "--dataset-file chat.jsonl --quiet --brain-name {name} --log-file {name}.jsonl {flags}"
        ),
    ));
    lab.events(name)
}

fn rows(events: &Events) -> Value {
    events.of("start")[0]["rows"].clone()
}

#[test]
fn packed_conversations_have_the_loss_of_each_alone() {
    for model in ["llama", "gemma3", "gpt2"] {
        let lab = lab();
        // All of them in one step.
        let alone = train(&lab, model, "a", "--no-packing --batch-size 12 --steps 1");
        let sequences = rows(&train(&lab, model, "b", "--steps 1"))["sequences"].clone();
        assert!(sequences.as_u64().unwrap() < 8, "{sequences}");
        let all = format!("--batch-size 2 --gradient-accumulation-steps {sequences} --steps 2");
        let half = format!("--batch-size 1 --gradient-accumulation-steps {sequences} --steps 1");
        let packed = train(&lab, model, "c", &half);
        assert_near(model, packed.steps("ce")[0], alone.steps("ce")[0], 1e-5);
        for count in ["trained_tokens", "tokens"] {
            assert_eq!(packed.steps(count)[0], alone.steps(count)[0], "{count}");
        }
        let (norm, own) = (alone.steps("grad_norm")[0], packed.steps("grad_norm")[0]);
        assert!((norm - own).abs() < 1e-4 * norm, "{model}: {norm} {own}");
        // Twice the sequences are twice the tokens, whatever the split.
        let twice = train(&lab, model, "d", &all);
        assert_near(model, twice.steps("ce")[0], alone.steps("ce")[0], 1e-5);
    }
}

#[test]
fn a_resumed_run_on_conversations_is_the_uninterrupted_one() {
    for flags in [
        "--eval-split 0.2 --keep-best",
        "--no-packing --no-linear-dataset",
        "--lora-rank 4",
    ] {
        let lab = lab();
        let flags = format!("{flags} --batch-size 2");
        train(&lab, "llama", "a", &format!("{flags} --steps 5"));
        train(&lab, "llama", "b", &format!("{flags} --steps 2"));
        // The template is the bundle's by now.
        std::fs::remove_file(lab.path("chat.jinja")).unwrap();
        lab.succeed(
            "finetune --resume --brain-name b --bundle-dir brains --steps 5 --device cpu --quiet",
        );
        assert_same_brain(&lab.brain("a"), &lab.brain("b"));
    }
}

#[test]
fn answers_alone_are_learnt_and_that_is_shown() {
    let lab = lab();
    let output = lab.run(&line(
        "llama",
        "--dataset-file chat.jsonl --steps 1 --log-file a.jsonl",
    ));
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    for words in [
        "messages (chat template chat.jinja), --train-on assistant",
        "<|im_start|>assistant\n[0.<|im_end|>]",
        "padding",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let events = lab.events("a");
    let rows = rows(&events);
    let [tokens, trained] = ["tokens", "trained_tokens"].map(|n| rows[n].as_u64().unwrap());
    // 18 answers of a digit or two, a full stop and the end of a turn.
    assert_eq!((trained, &rows["kept"]), (18 * 3 + 3, &json!(12)));
    assert!(tokens > 3 * trained);
    assert!(events.steps("trained_tokens")[0] < events.steps("tokens")[0]);
    let shown = lab.succeed(&format!(
        "data show chat.jsonl --model {} --chat-template chat.jinja --rows 2",
        root().join("tests/golden/decoders/a/llama").display()
    ));
    assert!(shown.starts_with("messages: 12 rows"), "{shown}");
    assert_eq!(shown.matches("<|im_end|>]").count(), 3, "{shown}");
}

#[test]
fn only_the_last_answer_or_all_is_learnt_if_that_is_asked_for() {
    let lab = lab();
    let trained = |name: &str, which: &str| {
        let flags = format!("--train-on {which} --steps 1");
        rows(&train(&lab, "llama", name, &flags))
    };
    assert_eq!(trained("a", "last")["trained_tokens"], 12 * 3 + 2);
    let all = trained("b", "all");
    assert_eq!(
        all["trained_tokens"].as_u64().unwrap() + 12,
        all["tokens"].as_u64().unwrap()
    );
}

#[test]
fn every_form_of_records_is_recognised() {
    let lab = lab();
    let files = [
        (
            "a.jsonl",
            "{\"prompt\": \"1 + 1 =\", \"completion\": \" 2\"}\n",
            "prompt-completion",
        ),
        (
            "b.json",
            "[{\"conversations\": [{\"from\": \"human\", \"value\": \"a\"}, {\"from\": \"gpt\", \"value\": \"b\"}]}]",
            "conversations",
        ),
        (
            "c.csv",
            "instruction,input,output\nadd,1 and 1,2\n\"say, now\",,\"a \"\"word\"\"\"\n",
            "instruction",
        ),
        (
            "d.tsv",
            "id\tmessages\n1\t\"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": \"\"a\"\"}, {\"\"role\"\": \"\"assistant\"\", \"\"content\"\": \"\"b\"\"}]\"\n",
            "messages",
        ),
    ];
    for (file, content, form) in files {
        lab.write(file, content);
        let flags = format!(
            "--dataset-file {file} --steps 1 --quiet --brain-name {form} --log-file {form}.jsonl"
        );
        lab.succeed(&line("llama", &flags));
        let rows = rows(&lab.events(form));
        assert_eq!(rows["form"], form);
        assert!(rows["trained_tokens"].as_u64().unwrap() > 0, "{rows}");
    }
}

#[test]
fn what_cannot_be_learnt_is_one_clear_error() {
    let lab = lab();
    lab.write(
        "all.jsonl",
        "{\"prompt\": \"\", \"completion\": \"2 and 3\"}\n",
    );
    lab.write(
        "none.jsonl",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n",
    );
    lab.write(
        "odd.jinja",
        "{{ messages | length }}{{ messages[-1].content }}",
    );
    let cases = [
        (
            "--dataset-file all.jsonl",
            1,
            &["100 %", "--train-on all"][..],
        ),
        (
            "--dataset-file none.jsonl",
            1,
            &["no row", "nothing is to be learnt"],
        ),
        (
            "--dataset-file chat.jsonl --too-long error --max-seq-len 16",
            1,
            &["row 1", "--max-seq-len 16"],
        ),
        (
            "--dataset-file chat.jsonl --packing --pack-rows",
            2,
            &["--packing", "--pack-rows"],
        ),
        (
            "--dataset-file chat.jsonl --chat-template odd.jinja",
            1,
            &["chat.jsonl line 1", "message 2"],
        ),
        (
            "--dataset-file chat.jsonl --chat-template no.jinja",
            2,
            &["--chat-template no.jinja"],
        ),
        (
            "--dataset-file text.txt --format messages",
            1,
            &["text.txt", "messages"],
        ),
    ];
    for (flags, code, words) in cases {
        let output = lab.run(&line("llama", &format!("{flags} --steps 1 --quiet")));
        assert_clear_error(&output, code, words);
    }
    let config = root().join("tests/golden/decoders/a/llama/config.json");
    let bare = format!(
        "pretrain --model-config {} --tokenizer tokenizer.json --dataset-file chat.jsonl --steps 1 --quiet",
        config.display()
    );
    let words = ["no chat template", "--chat-template FILE"];
    assert_clear_error(&lab.run(&bare), 2, &words);
}

#[test]
fn rows_that_are_too_long_are_cut_or_left_out_and_counted() {
    let lab = lab();
    let of = |name: &str, flags: &str| {
        let flags = format!("--max-seq-len 45 --steps 1 {flags}");
        rows(&train(&lab, "llama", name, &flags))
    };
    let (cut, dropped) = (of("a", ""), of("b", "--too-long drop"));
    assert_eq!(cut["too_long"], dropped["too_long"]);
    assert!(cut["tokens_cut_off"].as_u64().unwrap() > 0);
    assert_eq!(dropped["tokens_cut_off"], 0);
    let kept = |rows: &Value| rows["kept"].as_u64().unwrap();
    assert!(kept(&dropped) < kept(&cut), "{cut} {dropped}");
}

#[test]
fn a_model_that_learnt_a_template_answers_by_it() {
    let lab = lab();
    let flags = "--steps 60 --batch-size 4 --lr 1e-2";
    let events = train(&lab, "llama", "a", &format!("{flags} --sample-every 30"));
    // The first conversation's question, and an answer that ends where a turn does.
    let samples = events.of("sample");
    let text = samples[1]["text"].as_str().unwrap();
    assert!(
        text.contains("why ") && text.contains("assistant"),
        "{text:?}"
    );
    assert!(
        text.trim_end().ends_with('.') && text.len() < 40,
        "{text:?}"
    );
    let template = std::fs::read_to_string(lab.brain("a").join("chat_template.jinja")).unwrap();
    assert_eq!(template, TEMPLATE);
    let mut command = lab.command("generate brains/a --device cpu --max-new-tokens 16 --chat");
    command.arg("why ");
    let output = crate::common::lab::finish(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", stderr(&output));
    // It stops where the template ends a turn: an answer and no more.
    assert!(text.trim_end().ends_with('.') && text.len() < 8, "{text:?}");
}

#[test]
fn a_prompt_of_samples_is_what_the_user_says_in_conversations() {
    let lab = lab();
    let mut command = lab.command(&line(
        "llama",
        "--dataset-file chat.jsonl --quiet --brain-name a --log-file a.jsonl --steps 1 --lora-rank 4",
    ));
    command.args(["--sample-prompt", "what is it"]);
    let output = crate::common::lab::finish(command);
    assert!(output.status.success(), "{}", stderr(&output));
    let sample = lab.events("a").of("sample")[0]["text"].clone();
    let text = sample.as_str().unwrap();
    let parts = ["user", "what is it", "assistant"].map(|part| text.find(part).unwrap());
    assert!(parts.is_sorted(), "{text:?}");
}
