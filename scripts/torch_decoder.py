#!/usr/bin/env python3
"""Fine-tunes a Hugging Face decoder with PyTorch and transformers, and prints speed, memory and losses as one line of JSON.

What scripts/compare_hf runs `aios finetune` against: sequences in the order of the text, AdamW without decay at a constant
rate, all parameters or LoRA's of rank 16. Needs torch and transformers; --lora needs peft, --use-8bit-optimizer and
--nf4 need bitsandbytes.
"""
import argparse
import json
import statistics
import time

import numpy
import torch
import transformers

# Every linear layer of a block, by its name in any of the families that aios knows.
ADAPTED = {
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj",
    "c_attn", "c_proj", "c_fc",
}  # fmt: skip
RANK = 16


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of the model")
    parser.add_argument("--tokens", required=True, help="raw little-endian token file, *.u16 or *.i32")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--max-seq-len", type=int, default=512)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=1, help="steps before them, which do not count for the speed")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--amp", action="store_true", help="autocast to bf16, with f32 weights")
    parser.add_argument("--bf16-weights", action="store_true", help="weights, gradients and optimizer state in bf16")
    parser.add_argument("--use-8bit-optimizer", action="store_true")
    parser.add_argument("--lora", action="store_true", help="train adapters instead of all parameters")
    parser.add_argument("--nf4", action="store_true", help="frozen weights in 4 bits, computed with in bf16")
    return parser.parse_args()


def load(args):
    settings = dict(dtype=torch.bfloat16 if args.bf16_weights or args.nf4 else torch.float32)
    if args.nf4:
        settings["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
        )
        settings["device_map"] = "cpu"
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, **settings)
    model.config.use_cache = False
    if args.lora:
        model = adapted(model, args)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def adapted(model, args):
    import peft

    if args.nf4:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=args.gradient_checkpointing)
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()} & ADAPTED
    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=sorted(names))
    return peft.get_peft_model(model, config)


def optimizer_of(parameters, args):
    settings = dict(lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0)
    if args.use_8bit_optimizer:
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(parameters, **settings)
    return torch.optim.AdamW(parameters, fused=True, **settings)


def batches(args):
    """Inputs and labels of each step, in the order of the text."""
    tokens = numpy.fromfile(args.tokens, "<u2" if args.tokens.endswith("u16") else "<i4").astype("int64")
    length = args.max_seq_len
    starts = range(0, len(tokens) - length, length)
    for step in range(args.warmup + args.steps):
        rows = [starts[(step * args.batch_size + row) % len(starts)] for row in range(args.batch_size)]
        windows = torch.from_numpy(numpy.stack([tokens[start : start + length + 1] for start in rows]))
        yield windows[:, :-1], windows[:, 1:]


def train(model, args):
    """Seconds and loss of every step."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = optimizer_of(parameters, args)
    seconds, losses = [], []
    for inputs, labels in batches(args):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.amp):
            logits = model(input_ids=inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        del logits, loss
        seconds.append(time.perf_counter() - start)
    return seconds, losses


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = load(args)
    seconds, losses = train(model, args)
    median = statistics.median(seconds[args.warmup :])
    print(json.dumps(dict(
        framework=f"torch {torch.__version__}, transformers {transformers.__version__}",
        parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        tokens_per_second=args.batch_size * args.max_seq_len / median,
        seconds_per_step=seconds,
        losses=losses,
    )))  # fmt: skip


if __name__ == "__main__":
    main()
