"""A cell of the matrix: both programs in turns in one form."""
import statistics

from aios_scripts.compare_hf.aios_side import finetune_command, run_finetune
from aios_scripts.compare_hf.forms import FORMS, in_half
from aios_scripts.compare_hf.torch_side import missing, run_torch, torch_command
from aios_scripts.compare_torch.aios_side import tokens_left_by
from aios_scripts.compare_torch.cells import has_no_bf16
from aios_scripts.compare_torch.forms import NAMES
from aios_scripts.compare_torch.notes import different, happened

# The same model on the same tokens is as close as this at its first step, in nats: in f32, and with rounding to bf16 or 4 bits.
SAME_START, SAME_START_ROUNDED = 1e-3, 0.1
WARMUP = 1


class Bench:
    """What a cell needs to run: both programs, the arguments, the tokens, a place for files."""

    def __init__(self, binary, python, about, args, scratch):
        self.binary, self.python, self.about, self.args, self.scratch = binary, python, about, args, scratch
        command = finetune_command(binary, args, "full-ckpt", (1, 16), 1, scratch)
        least = max(batch * length * args.steps + 1 for batch, length in args.shapes)
        self.tokens = tokens_left_by(command, args, scratch, least)

    def programs(self, _form):
        return ["aios", "torch"]

    def missing(self, program, form):
        """Why a program cannot do a form here."""
        return missing(self.about, form) if program == "torch" else None

    def run(self, program, form, shape):
        steps, warmup = self.lengths(form, shape)
        if program == "aios":
            command = finetune_command(self.binary, self.args, form, shape, warmup + steps, self.scratch)
            return run_finetune(command, self.args, warmup, self.scratch)
        command = torch_command(self.python, self.args, form, shape, steps, warmup, self.tokens)
        return run_torch(command, self.args)

    def lengths(self, form, _shape):
        """(measured steps, steps to warm up) of a run: as few as possible where PyTorch takes minutes for one."""
        slow = in_half(form) and has_no_bf16()
        return (1 if slow else self.args.steps - WARMUP), WARMUP

    def notes(self, form, sides):
        found = [note for name, side in sides.items() for run in side["runs"] for note in happened(NAMES[name], run)]
        half = in_half(form)
        if half and has_no_bf16():
            found.append("this CPU has no bf16 arithmetic")
        if FORMS[form] is None:
            found.append("aios ran without a flag about memory, PyTorch as in `full`")
        if FORMS[form] and "lora" in FORMS[form]:
            found.append("adapters of rank 16 on all linear layers of the blocks")
        found += different(sides, SAME_START_ROUNDED if half else SAME_START)
        return list(dict.fromkeys(found))


def with_heap(result):
    """A cell with what aios counted of its own heap."""
    runs = result["aios"]["runs"]
    if runs:
        result["aios"]["heap_peak_bytes"] = int(statistics.median(run["heap_peak_bytes"] for run in runs))
    return result
