"""A cell of the matrix: all programs in turns at one form and shape."""
import statistics
import time

from aios_scripts.compare_torch.aios_side import aios_command, run_aios, write_tokens
from aios_scripts.compare_torch.forms import FORMS, NAMES, asks
from aios_scripts.compare_torch.measuring import Failed, Late
from aios_scripts.compare_torch.notes import notes
from aios_scripts.compare_torch.torch_side import run_torch, torch_command
from aios_scripts.machine import cpu_vectors
from aios_scripts.output import say

MEASURED_TOKENS = 2048
GPU_STEPS, GPU_WARMUP = 20, 5


class Bench:
    """What a cell needs to run: both programs, the arguments, the tokens, a place for files."""

    def __init__(self, binary, python, about, args, scratch):
        self.binary, self.python, self.about, self.args, self.scratch = binary, python, about, args, scratch
        self.tokens = write_tokens(binary, args, scratch)

    def programs(self, form):
        compiled = self.args.compile and FORMS[form] is not None
        return ["aios", "torch"] + (["torch_compile"] if compiled else [])

    def missing(self, program, form):
        """Why a program cannot do a form here."""
        return self.about["no_8_bit"] if program != "aios" and asks(form, "8-bit") else None

    def run(self, program, form, shape):
        steps, warmup = self.lengths(form, shape)
        if program == "aios":
            command = aios_command(self.binary, self.args, form, shape, warmup + steps, self.scratch)
            return run_aios(command, self.args, warmup, self.scratch / "cache")
        command = torch_command(self.python, self.args, program, form, shape, steps, warmup, self.tokens)
        return run_torch(command, self.args)

    def lengths(self, form, shape):
        """(measured steps, steps to warm up) of a run."""
        return lengths(self.args, form, shape)

    def notes(self, form, sides):
        slow = ["this CPU has no bf16 arithmetic"] if half_is_slow(self.args, form) else []
        return notes(form, sides) + slow


def lengths(args, form, shape):
    if args.device == "cpu":
        steps, warmup = max(MEASURED_TOKENS // (shape[0] * shape[1]), 1), 1
    else:
        steps, warmup = GPU_STEPS, GPU_WARMUP
    if half_is_slow(args, form):
        steps, warmup = 1, 0
    return args.steps or steps, warmup if args.warmup is None else args.warmup


def half_is_slow(args, form):
    """Whether bf16 has to be imitated; not where that cannot be told."""
    return args.device == "cpu" and asks(form, "amp") and has_no_bf16()


def has_no_bf16():
    """Whether this CPU is known to have no arithmetic in it."""
    vectors = cpu_vectors()
    return bool(vectors) and not any("bf16" in v for v in vectors)


def compare(bench, form, shape):
    """All programs in turns at one form and shape."""
    start, args = time.monotonic(), bench.args
    sides = {program: dict(runs=[]) for program in bench.programs(form)}
    for program, side in sides.items():
        reason = bench.missing(program, form)
        if reason:
            side["not_available"] = reason
    longest = 0
    for number in range(args.rounds):
        round_start = time.monotonic()
        if number and args.cell_minutes and round_start - start + longest > args.cell_minutes * 60:
            break
        say(f"  round {number + 1} of {args.rounds}")
        for program, side in sides.items():
            attempt(bench, program, form, shape, side)
        longest = max(longest, time.monotonic() - round_start)
    return cell(bench, form, shape, sides, time.monotonic() - start)


def attempt(bench, program, form, shape, side):
    """One more run, unless there is no use in it."""
    if "error" in side or "not_available" in side:
        return
    try:
        side["runs"].append(bench.run(program, form, shape))
    except Late as cause:
        side["not_available"] = str(cause)
        say(f"  {NAMES[program]} stopped: {cause}")
    except Failed as cause:
        side["error"], side["output"] = cause.args
    except (KeyError, ValueError) as cause:
        side["error"], side["output"] = f"its report is not understood: {type(cause).__name__} {cause}", ""
    if "error" in side:
        say(f"  {NAMES[program]} failed: {side['error']}")


def cell(bench, form, shape, sides, seconds):
    for side in sides.values():
        side.update(summary(side["runs"]))
    ours, (steps, warmup) = sides["aios"], bench.lengths(form, shape)
    return dict(
        form=form,
        batch_size=shape[0],
        max_seq_len=shape[1],
        steps=steps,
        warmup=warmup,
        rounds=max(len(side["runs"]) for side in sides.values()),
        seconds=round(seconds, 1),
        **sides,
        ratios={name: ratios(ours, side) for name, side in sides.items() if name != "aios"},
        notes=bench.notes(form, sides),
    )


def summary(runs):
    if not runs:
        return {}
    speeds = [run["tokens_per_second"] for run in runs]
    return dict(
        tokens_per_second=statistics.median(speeds),
        slowest=min(speeds),
        fastest=max(speeds),
        peak_bytes=int(statistics.median(run["peak_bytes"] for run in runs)),
        peak_kind=runs[0]["peak_kind"],
        parameters=runs[0]["parameters"],
        first_ce=runs[0]["first_ce"],
        last_ce=runs[0]["last_ce"],
    )


def ratios(ours, theirs):
    """Ours by theirs; of memory only where it is the same kind of memory."""
    if not (ours["runs"] and theirs["runs"]):
        return dict(speed=None, memory=None)
    alike = ours["peak_kind"] == theirs["peak_kind"]
    return dict(
        speed=ours["tokens_per_second"] / theirs["tokens_per_second"],
        memory=ours["peak_bytes"] / theirs["peak_bytes"] if alike else None,
    )
