#!/usr/bin/env python3
"""The work of one `aios train` step in PyTorch, as a yardstick: HRM ACT-v1, causal, with deep supervision.

Prints one JSON object: tokens per second (median over the steps), peak memory, first and last cross-entropy.
Needs torch, and numpy for --tokens. `scripts/compare_torch` runs it side by side with aios.

    python3 scripts/torch_actv1.py --steps 10 --batch-size 8 --max-seq-len 128 --no-amp --no-gradient-checkpointing
"""
import argparse
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

IGNORED = -100


def rms_norm(x):
    return F.rms_norm(x, (x.shape[-1],), eps=1e-5)


def rotate_half(x):
    low, high = x.chunk(2, -1)
    return torch.cat((-high, low), -1)


class Block(nn.Module):
    """Attention and SwiGLU, each added to its input and normalised."""

    def __init__(self, args):
        super().__init__()
        hidden = args.hidden_size
        inner = math.ceil(round(args.expansion * hidden * 2 / 3) / 256) * 256
        self.heads, self.window = args.num_heads, args.window_size
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.out = nn.Linear(hidden, hidden, bias=False)
        self.gate_up = nn.Linear(hidden, 2 * inner, bias=False)
        self.down = nn.Linear(inner, hidden, bias=False)

    def forward(self, x, cos, sin):
        x = rms_norm(x + self.attention(x, cos, sin))
        gate, up = self.gate_up(x).chunk(2, -1)
        return rms_norm(x + self.down(F.silu(gate) * up))

    def attention(self, x, cos, sin):
        batch, length, hidden = x.shape
        heads = self.qkv(x).view(batch, length, 3, self.heads, hidden // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        q, k = ((t * cos + rotate_half(t) * sin).to(v.dtype) for t in (q, k))
        mask = self.sliding_mask(length, x.device)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, hidden))

    def sliding_mask(self, length, device):
        if not 0 < self.window < length:
            return None
        distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
        return (distance >= 0) & (distance < self.window)


class Level(nn.Module):
    def __init__(self, layers, args):
        super().__init__()
        self.blocks = nn.ModuleList(Block(args) for _ in range(layers))
        self.recompute = args.gradient_checkpointing

    def forward(self, z, injection, cos, sin):
        z = z + injection
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                z = checkpoint(block, z, cos, sin, use_reentrant=False)
            else:
                z = block(z, cos, sin)
        return z


class ActV1(nn.Module):
    def __init__(self, args):
        super().__init__()
        hidden = args.hidden_size
        self.cycles = [(h, l) for h in range(args.h_cycles) for l in range(args.l_cycles)]
        self.l_cycles, self.scale = args.l_cycles, math.sqrt(hidden)
        self.embedding = nn.Embedding(args.vocab_size, hidden)
        self.lm_head = nn.Linear(hidden, args.vocab_size, bias=False)
        self.q_head = nn.Linear(hidden, 2)
        self.high, self.low = Level(args.h_layers, args), Level(args.l_layers, args)
        self.register_buffer("high_init", nn.init.trunc_normal_(torch.empty(hidden)))
        self.register_buffer("low_init", nn.init.trunc_normal_(torch.empty(hidden)))
        self.add_rotary_tables(args)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
        nn.init.trunc_normal_(self.embedding.weight, std=1 / self.scale)
        nn.init.zeros_(self.q_head.weight)
        nn.init.constant_(self.q_head.bias, -5.0)

    def add_rotary_tables(self, args):
        size = args.hidden_size // args.num_heads
        frequency = args.rope_theta ** (-torch.arange(0, size, 2).float() / size)
        angle = torch.outer(torch.arange(args.max_seq_len).float(), frequency).repeat(1, 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def initial_carry(self, tokens):
        return tuple(z.expand(*tokens.shape, -1) for z in (self.high_init, self.low_init))

    def segment(self, carry, tokens):
        """(new carry, hidden states, halt and continue logits); only the last low and high calls have gradients."""
        x = self.scale * self.embedding(tokens)
        z_high, z_low = carry
        with torch.no_grad():
            for _, low_cycle in self.cycles[:-1]:
                z_low = self.low(z_low, z_high + x, self.cos, self.sin)
                if low_cycle == self.l_cycles - 1:
                    z_high = self.high(z_high, z_low, self.cos, self.sin)
        z_low = self.low(z_low, z_high + x, self.cos, self.sin)
        z_high = self.high(z_high, z_low, self.cos, self.sin)
        q = self.q_head(z_high[:, -1]).float()
        return (z_high.detach(), z_low.detach()), z_high, q[:, 0], q[:, 1]


def train_segments(model, tokens, labels, args, autocast, weight):
    """Runs every segment forward and backward; returns the last segment's cross-entropy."""
    carry = model.initial_carry(tokens)
    for index in range(args.halt_max_steps):
        with autocast():
            carry, hidden, halt, keep = model.segment(carry, tokens)
            logits = model.lm_head(hidden).float()
        ce = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        with torch.no_grad():
            exact = ((logits.argmax(-1) == labels) | (labels == IGNORED)).all(-1).float()
        loss = ce + 0.5 * F.binary_cross_entropy_with_logits(halt, exact)
        if args.halt_max_steps > 1:
            last = index == args.halt_max_steps - 1
            loss = loss + 0.5 * F.binary_cross_entropy_with_logits(keep, next_value(model, carry, tokens, last, autocast))
        (loss * weight / args.halt_max_steps).backward()
    return ce.detach()


@torch.no_grad()
def next_value(model, carry, tokens, last, autocast):
    """What going on is worth: the value of the best choice in the segment after this one."""
    with autocast():
        _, _, halt, keep = model.segment(carry, tokens)
    return torch.sigmoid(halt if last else torch.maximum(halt, keep))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    whole_numbers = dict(
        steps=10, warmup=2, batch_size=8, max_seq_len=128, vocab_size=50257, hidden_size=512, num_heads=8, h_layers=2,
        l_layers=2, h_cycles=2, l_cycles=2, halt_max_steps=2, window_size=0, gradient_accumulation_steps=1, threads=0, seed=0,
    )
    for name, default in whole_numbers.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    parser.add_argument("--expansion", type=float, default=2.0)
    parser.add_argument("--rope-theta", type=float, default=10000.0)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokens", help="raw little-endian token file, *.u16 or *.i32; random tokens if absent")
    parser.add_argument("--amp", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--gradient-checkpointing", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--use-8bit-optimizer", action="store_true", help="needs bitsandbytes")
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def load_tokens(args):
    if not args.tokens:
        return torch.randint(args.vocab_size, (1_000_000,))
    import numpy

    kind = "<u2" if args.tokens.endswith("u16") else "<i4"
    return torch.from_numpy(numpy.fromfile(args.tokens, kind).astype("int64"))


def make_optimizer(model, args):
    if args.use_8bit_optimizer:
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(model.parameters(), lr=args.lr, weight_decay=0.1)
    return torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.1, fused=True)


def random_windows(data, args):
    length = args.max_seq_len + 1
    starts = torch.randint(len(data) - length + 1, (args.batch_size,)).tolist()
    windows = torch.stack([data[start : start + length] for start in starts]).to(args.device)
    return windows[:, :-1], windows[:, 1:].contiguous()


def train(model, data, args):
    """Seconds and cross-entropy of every step after the warm-up."""
    optimizer = make_optimizer(model, args)
    device_type = args.device.split(":")[0]
    autocast = lambda: torch.autocast(device_type, torch.bfloat16, enabled=args.amp)
    seconds, losses = [], []
    for _ in range(args.warmup + args.steps):
        start = time.perf_counter()
        for _ in range(args.gradient_accumulation_steps):
            inputs, labels = random_windows(data, args)
            ce = train_segments(model, inputs, labels, args, autocast, 1 / args.gradient_accumulation_steps)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(ce))
        if device_type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[args.warmup :], losses


def peak_memory(device):
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(), "cuda allocated"
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "process RSS"


def main():
    args = parse_arguments()
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = True
    model = ActV1(args).to(args.device)
    if args.compile:
        model.segment = torch.compile(model.segment)
    seconds, losses = train(model, load_tokens(args), args)
    median = statistics.median(seconds)
    peak, kind = peak_memory(args.device)
    shown = ("batch_size max_seq_len hidden_size halt_max_steps amp gradient_checkpointing use_8bit_optimizer window_size "
             "compile gradient_accumulation_steps").split()
    report = dict(
        framework=f"torch {torch.__version__}",
        device=torch.cuda.get_device_name() if args.device.startswith("cuda") else "cpu",
        threads=torch.get_num_threads(),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tokens_per_second=round(args.batch_size * args.max_seq_len * args.gradient_accumulation_steps / median, 1),
        seconds_per_step=round(median, 4),
        peak_bytes=peak,
        peak_kind=kind,
        reserved_bytes=torch.cuda.max_memory_reserved() if args.device.startswith("cuda") else None,
        first_ce=round(losses[0], 4),
        last_ce=round(losses[-1], 4),
        **{name: getattr(args, name) for name in shown},
    )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
