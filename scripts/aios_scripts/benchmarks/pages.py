"""The pages that show results: what is in them, and in which order."""
import json
import re

from aios_scripts.benchmarks import against_torch, against_transformers, bench, fits, kills, ranks, runs
from aios_scripts.metrics import by_kind

INTRO = """# Benchmarks

What `aios` gave on the machines named at each table, and what to run to get the same table for yours. The tables are written
by `scripts/render_benchmarks` from the raw results in [bench/results/](bench/results/), with every run and more.
All are of the default model (60 M parameters) unless a table says otherwise. Medians, where there was more than one run.
"""
# Kind of result: (heading, its section); files that have none are listed.
SECTIONS = {
    "compare-torch": ("Against PyTorch", against_torch.compare_torch),
    "compare-hf": ("Fine-tuning against transformers", against_transformers.compare_hf),
    "compare-torch-attention": ("Attention against PyTorch", against_torch.compare_attention),
    "memory": ("Memory of a training step", bench.memory),
    "memory-by-length": ("Memory over the sequence length", bench.memory_by_length),
    "attention": ("Attention over the sequence length", bench.attention),
    "context": ("Long contexts", bench.context),
    "step": ("Where the time of a step goes", bench.step),
    "what-fits": ("What fits", fits.fits),
    "distributed": ("Several ranks", ranks.distributed),
    "training": ("Learning", runs.training),
    "kills": ("Killed and resumed", kills.kills),
    "report": ("Checks of GPUs", runs.report),
    "other": ("Other results", None),
}
SHORT_TABLES = {
    "compare-torch": against_torch.compare_compact,
    "smollm2-vs-torch": against_transformers.compact,
    "compare-torch-attention": against_torch.compare_attention_table,
    "memory": bench.memory_table,
    "attention": lambda path, data: bench.attention_table(data, min(r["head_dim"] for r in data["rows"])),
    "context": bench.context_table,
    "kills": kills.kills_table,
    "what-fits": fits.fits_table,
}
# Of no machine.
PREDICTED = {"what-fits"}
MARKER = re.compile(
    r"^<!-- (?P<name>[a-z][a-z0-9-]*)(?P<machine> [\w.-]+)? -->\n.*?^<!-- /(?P=name) -->$", re.MULTILINE | re.DOTALL
)


class Missing(Exception):
    """A result that cannot be shown."""


def read(path):
    """What kind of result a file holds, and the result."""
    try:
        if path.suffix == ".jsonl":
            events = by_kind(map(json.loads, path.read_text().splitlines()))
            return ("training" if {"start", "step", "end"} <= events.keys() else "other"), events
        data = json.loads(path.read_text())
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise Missing(f"{path} cannot be read: {cause}") from cause
    return kind(data), data


def kind(data):
    if isinstance(data, list):
        alike = all(isinstance(table, dict) and table.get("benchmark") == "memory" for table in data)
        return "memory-by-length" if data and alike else "other"
    if data.get("benchmark") in ("compare-torch", "compare-hf", "memory", "attention", "context", "step", "kills", "distributed", *PREDICTED):
        return data["benchmark"]
    if "summary" in data:
        return "report"
    rows = data.get("results") or [{}]
    return "compare-torch-attention" if "torch_ms" in rows[0] else "other"


def benchmarks(results):
    parts = [INTRO]
    for name, (title, section) in SECTIONS.items():
        files = sorted((path for path, (found, _) in results.items() if found == name), key=lambda path: path.stem)
        if files:
            parts.append(f"## {title}\n")
        for path in files:
            link = f"[{path.name}](bench/results/{path.name})"
            parts.append(f"{shown(section, path, results[path][1])}\n\nRaw: {link}\n" if section else f"- {link}")
    return "\n".join(parts).rstrip("\n") + "\n"


def shown(section, path, data):
    try:
        return section(path, data)
    except (KeyError, IndexError, TypeError, AttributeError) as cause:
        raise Missing(f"{path} is not laid out as expected: {type(cause).__name__} {cause}") from cause


def filled(name_of_page, text, folder, results):
    """A page with each marked table as it is now."""

    def table(match):
        name, machine = match["name"], (match["machine"] or " cpu").strip()
        if name not in SHORT_TABLES:
            return match[0]
        path = folder / (f"{name}.json" if name in PREDICTED else f"{machine}-{name}.json")
        if path not in results:
            raise Missing(f"{name_of_page} shows {path.name}, which is not in {folder}")
        head = f"<!-- {name}{match['machine'] or ''} -->"
        return f"{head}\n\n{shown(SHORT_TABLES[name], path, results[path][1])}\n\n<!-- /{name} -->"

    return MARKER.sub(table, text)


def pages(root):
    """Each file and what it should hold."""
    folder = root / "bench" / "results"
    results = {path: read(path) for path in sorted(folder.iterdir()) if path.suffix in (".json", ".jsonl")}
    yield root / "BENCHMARKS.md", benchmarks(results)
    for page in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        if page.exists():
            yield page, filled(page.name, page.read_text(encoding="utf-8"), folder, results)
