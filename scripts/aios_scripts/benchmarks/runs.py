"""Training runs, and the reports of scripts/gpu_check."""
import re
import statistics

from aios_scripts.benchmarks.words import block
from aios_scripts.figures import markdown, mib


def training(path, events):
    start, end = events["start"][0], events["end"][-1]
    steps = events["step"]
    config = start["config"]
    shape = f"{config['batch_size']} × {config['max_seq_len']} tokens"
    rows = [[
        f"{end['step']:,}", shape, f"{steps[0]['ce']:.2f}", f"{statistics.mean(step['ce'] for step in steps[-10:]):.2f}",
        f"{end['seconds']:.0f} s", mib(end["peak_bytes"]),
    ]]  # fmt: skip
    head = ["steps", "batch × tokens", "cross-entropy, first step", "mean of the last ten", "time", "peak"]
    words = f"{start['device']}, {start['backend']}, {start['precision']['compute']}; {start['parameters']:,} parameters;"
    words += f" {start['time'][:10]}. Cross-entropy in nats per token."
    command = f"aios train --dataset-file {config['dataset_file']} --steps {end['step']} --log-file {path.name}"
    return "\n\n".join([words, markdown(head, rows, words=0), block(command)])


def report(path, data):
    """The first lines of a report, which has a page of its own if the file beside it has its name."""
    page = path.with_suffix(".md")
    link = f"Whole report: [{page.name}](bench/results/{page.name})." if page.exists() else None
    # Its headings go below ours.
    text = re.sub(r"^(#+) ", lambda match: f"{'#' * min(len(match[1]) + 3, 6)} ", data["summary"].strip(), flags=re.M)
    return "\n\n".join(filter(None, [text, link]))
