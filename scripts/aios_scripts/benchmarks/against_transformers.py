"""Fine-tuning of a Hugging Face model, compared with PyTorch and transformers."""
from aios_scripts.benchmarks.against_torch import compare_notes, compare_row, machine_line, shapes
from aios_scripts.benchmarks.words import block
from aios_scripts.figures import markdown, mib

COMPACT_FORMS = ["full", "full-ckpt", "full-ckpt-8bit", "lora", "lora-ckpt", "qlora-ckpt"]
HEAD = ["form", "rounds", "PyTorch tokens/s", "aios tokens/s", "**speed**", "PyTorch peak", "aios peak", "**memory**"]


def compare_hf(path, data):
    batch, length = shapes(data)[0]
    words = f"{data['settings']['model']}, {batch} × {length:,} tokens a step; {machine_line(data)}"
    table = markdown([*HEAD, "aios' heap", "last loss, PyTorch", "aios"], [row(r) for r in data["results"]], words=1)
    notes = "\n".join(compare_notes(data)).rstrip("\n")
    return "\n\n".join([words, table, notes, flags_of_forms(data), block(data["command"])])


def row(result):
    torch, aios = result["torch"], result["aios"]
    return [*compare_row(result, False), mib(aios.get("heap_peak_bytes")), last_loss(torch), last_loss(aios)]


def last_loss(side):
    """Of the last step; it is the same step on both sides."""
    return f"{side['last_ce']:.3f}" if side["runs"] else "-"


def flags_of_forms(data):
    shown = lambda flags: f"`{' '.join(flags)}`" if flags else "none"
    rows = [[f"`{form}`", shown(of["aios"]), shown(of["torch"])] for form, of in data["forms"].items()]
    table = markdown(["form", "aios finetune", "scripts/torch_decoder.py"], rows)
    return f"<details><summary>Flags of each form</summary>\n\n{table}\n\n</details>"


def compact(path, data):
    """The forms that matter most, as a table for README.md."""
    kept = [r for form in COMPACT_FORMS for r in data["results"] if r["form"] == form]
    without_rounds = lambda cells: [cells[0], *cells[2:]]
    return markdown(without_rounds(HEAD), [without_rounds(compare_row(r, False)) for r in kept], words=1)
