//! The guide's way from conversations to an adapter that answers, with a tiny model.

use crate::common::lab::{Lab, stderr};
use crate::common::root;
use crate::decoders::folder;

const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

#[test]
fn an_adapter_is_trained_on_the_chat_sample_and_answers() {
    let lab = Lab::new();
    let sample = root().join("training_data/curated_datasets/chat_sample.jsonl");
    let sample = std::fs::read_to_string(sample).unwrap();
    let part: Vec<&str> = sample.lines().take(48).collect();
    lab.write("chat.jsonl", part.join("\n"));
    lab.write("chat.jinja", TEMPLATE);
    let model = folder("llama").display().to_string();
    lab.succeed(&format!(
        "finetune --model {model} --dataset-file chat.jsonl --chat-template chat.jinja --lora-rank 16 --max-seq-len 256 \
         --batch-size 1 --lr 1e-2 --steps 36 --device cpu --quiet --save-dir taught --log-file a.jsonl"
    ));
    let events = lab.events("a");
    let rows = &events.of("start")[0]["rows"];
    let [tokens, trained] = ["tokens", "trained_tokens"].map(|name| rows[name].as_f64().unwrap());
    assert!(0.0 < trained && trained < tokens, "{rows}");
    assert!(rows["sequences"].as_u64() < rows["kept"].as_u64(), "{rows}");
    let losses = events.steps("loss");
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..6]), mean(&losses[30..]));
    assert!(last < 0.8 * first, "{first} {last}");
    for name in [aios_hf::ADAPTER_FILE, aios_hf::ADAPTER_CONFIG_FILE] {
        assert!(lab.path("taught").join(name).is_file(), "{name}");
    }
    let mut command = lab.command(&format!(
        "generate --model {model} --adapter taught --temperature 0 --max-new-tokens 24 --device cpu --chat"
    ));
    command.arg("What is 1 plus 1?");
    let output = crate::common::lab::finish(command);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!output.stdout.is_empty());
}
