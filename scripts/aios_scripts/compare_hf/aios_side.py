"""aios' side: its command, and what it reports."""
import re
import shutil

from aios_scripts.compare_hf.forms import aios_flags
from aios_scripts.compare_torch.aios_side import run_aios
from aios_scripts.compare_torch.measuring import Failed
from aios_scripts.processes import text_of

# What both sides train with, so that their losses can be compared.
RATE = "1e-4"
PLAIN = ["--lr", RATE, "--lr-schedule", "constant", "--warmup-steps", "0", "--weight-decay", "0", "--grad-clip", "0"]


def finetune_command(binary, args, form, shape, steps, scratch):
    # fmt: off
    return [
        binary, "finetune", "--json", "--device", "cpu", "--model", str(args.model), "--dataset-file", str(args.dataset_file),
        "--batch-size", str(shape[0]), "--max-seq-len", str(shape[1]), "--steps", str(steps), *PLAIN,
        "--save-dir", str(scratch / "bundle"), *aios_flags(form),
    ]
    # fmt: on


def run_finetune(command, args, warmup, scratch):
    shutil.rmtree(scratch / "bundle", ignore_errors=True)
    run = run_aios(command, args, warmup, scratch / "cache")
    if run["smaller_batches"]:
        raise Failed(f"it did not fit: {run['smaller_batches'][0]}", "")
    return run


def lacking(binary, form):
    """The first flag of a form that this aios does not have."""
    known = text_of([binary, "finetune", "--help"]) or ""
    flags = [flag for flag in aios_flags(form) if flag.startswith("--")]
    return next((flag for flag in flags if not re.search(rf"{flag}\b(?!-)", known)), None)
