"""aios' side: its command, what it reports, and the tokens that both sides read."""
import statistics
import struct
import sys

from aios_scripts.compare_torch.forms import FORMS, flags
from aios_scripts.compare_torch.measuring import ON_DEVICE, RESIDENT, Failed, measure
from aios_scripts.metrics import by_kind, fallback_text
from aios_scripts.output import refuse

# The head of a token cache, see crates/data/src/cache.rs: magic, bytes a token, tokens, documents; at the fixed offset the
# tokens follow, and 8 bytes a document.
CACHE_HEADER, CACHE_HEADER_BYTES, CACHE_MAGIC = "<8sQQQ", 152, b"aiostok\x03"
# feature: (with it, without it)
FLAGS = {
    "checkpointing": (["--gradient-checkpointing"], ["--no-gradient-checkpointing"]),
    "amp": (["--amp", "--amp-dtype", "bf16"], ["--no-amp"]),
    "8-bit": (["--use-8bit-optimizer"], ["--no-8bit-optimizer"]),
}


def aios_command(binary, args, form, shape, steps, scratch):
    chosen = [] if FORMS[form] is None else flags(form, FLAGS)
    # fmt: off
    return [
        binary, "train", "--json", "--device", args.device, "--model", "gpt2", "--dataset-file", str(args.dataset_file),
        "--batch-size", str(shape[0]), "--max-seq-len", str(shape[1]), "--steps", str(steps),
        # Every sequence runs all segments, as PyTorch's side does.
        "--halt-exploration", "1", "--bundle-dir", str(scratch / "bundle"), *chosen,
    ]
    # fmt: on


def run_aios(command, args, warmup, cache):
    done = measure(command, args.threads, cache, args.run_minutes)
    events = by_kind(done.pop("lines"))
    steps, (start, *_), end = events.get("step", []), events["start"], events["end"][-1]
    if end["reason"] != "done" or len(steps) <= warmup:
        raise Failed(f"ended early: {end['reason']}", "")
    on_cpu = start["backend"] == "cpu"
    return dict(
        done,
        tokens_per_second=statistics.median(step["tokens_per_second"] for step in steps[warmup:]),
        peak_bytes=done["rss_bytes"] if on_cpu else end["peak_bytes"],
        peak_kind=RESIDENT if on_cpu else ON_DEVICE,
        reserved_bytes=None if on_cpu else max(step["memory"]["reserved_bytes"] for step in steps),
        parameters=start["parameters"],
        first_ce=steps[0]["ce"],
        last_ce=steps[-1]["ce"],
        losses=[step["ce"] for step in steps],
        heap_peak_bytes=end["host_peak_bytes"],
        device=start["device"],
        as_run=dict(
            precision=start["precision"]["compute"],
            checkpointing=start["checkpointing"],
            optimizer=start["optimizer"]["kind"],
            attention=start["attention"]["path"],
        ),
        fallbacks=[fallback_text(event) for event in events.get("fallback", [])],
        smaller_batches=[
            f"{event['from']} to {event['to']} sequences: {event['reason']}" for event in events.get("oom_backoff", [])
        ],
    )


def write_tokens(binary, args, scratch):
    """The dataset's tokens as a raw file for the PyTorch side."""
    longest = max(length for _, length in args.shapes)
    return tokens_left_by(aios_command(binary, args, "plain", (1, 16), 1, scratch), args, scratch, longest + 2)


def tokens_left_by(command, args, scratch, least):
    """The dataset's tokens, of which so many are needed, out of the cache that a run of one step leaves behind."""
    try:
        measure(command, args.threads, scratch / "cache")
    except Failed as cause:
        sys.exit(f"aios cannot train here at all: {cause.args[0]}")
    (cached,) = (scratch / "cache").glob("*.tokens")
    data = cached.read_bytes()
    magic, width, count, documents = struct.unpack_from(CACHE_HEADER, data)
    end = CACHE_HEADER_BYTES + width * count
    if magic != CACHE_MAGIC or len(data) != end + 8 * documents:
        sys.exit(f"{cached} is not laid out as crates/data/src/cache.rs writes it; bring CACHE_HEADER up to date")
    if count < least:
        refuse(f"{args.dataset_file} has {count} tokens, and {least} are needed")
    tokens = scratch / ("tokens.u16" if width == 2 else "tokens.i32")
    tokens.write_bytes(data[CACHE_HEADER_BYTES:end])
    return tokens
