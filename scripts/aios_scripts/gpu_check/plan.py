"""Which stages there are, in which order, how long each may take, and what becomes of it."""
import time

from aios_scripts.gpu_check.adapters import is_toy
from aios_scripts.gpu_check.against_torch import compare_attention, compare_torch
from aios_scripts.gpu_check.benches import bench, half
from aios_scripts.gpu_check.devices import check_devices, list_devices
from aios_scripts.gpu_check.results import save
from aios_scripts.gpu_check.run import Failed, NotRun
from aios_scripts.gpu_check.tests import run_tests
from aios_scripts.gpu_check.training import DEFAULT, EXAMPLE, QUICKSTART, training
from aios_scripts.output import say
from aios_scripts.processes import Interrupted

# Name, what it runs, on which kinds of device: the best one alone, every one, or none; whether with --quick too.
STAGES = [
    ("devices", list_devices, "none", True),
    ("check", check_devices, "none", True),
    ("example", training(EXAMPLE), "best", True),
    ("tests", run_tests, "best", True),
    ("default", training(DEFAULT), "best", True),
    ("memory", bench("memory"), "best", True),
    ("torch", compare_torch, "best", True),
    ("attention", bench("attention", chart=True, dtype=half), "best", True),
    ("context", bench("context"), "best", True),
    ("torch-attention", compare_attention, "best", True),
    ("example", training(EXAMPLE), "others", True),
    ("tests", run_tests, "others", True),
    ("quickstart", training(QUICKSTART), "best", False),
    ("attention-f32", bench("attention", chart=True, dtype=lambda adapter: "f32"), "best", False),
    ("memory-rows", bench("memory", chart=True), "best", False),
    ("context-lengths", bench("context", chart=True), "best", False),
    ("torch-matrix", compare_torch, "best", False),
    ("attention", bench("attention", chart=True, dtype=half), "others", False),
    ("memory", bench("memory"), "others", False),
]
# The longest a stage may take, in seconds, or a quarter of the budget if that is more; unless stages are named, it also gets
# no more than half of what is left of the budget.
LIMITS = {"devices": 60, "check": 240, "tests": 480, "torch": 600, "torch-matrix": 3600}
LIMIT = 300
# With less than this left, a stage is not begun.
LEAST_SECONDS = 10


def planned(args, adapters):
    """(name, what it runs, adapter) in order."""
    of = {"none": adapters[:1], "best": adapters[:1], "others": adapters[1:]}
    for name, work, which, quick in STAGES:
        wanted = name in args.only if args.only else quick or not (args.quick or is_toy(adapters[0]))
        if wanted and name not in args.skip:
            for adapter in of[which]:
                yield name, work, adapter


def run_stages(run, plan, results, end):
    for name, work, adapter in plan:
        run.begin(name, adapter)
        left = end - time.monotonic()
        say(f"{name} on {run.device}, {max(left, 0):.0f} s left")
        stage = perform(run, work, left)
        say(f"  {stage['outcome']} after {stage['seconds']} s{': ' + stage['reason'] if stage['reason'] else ''}")
        results["stages"].append(stage)
        save(run.record, results)
        if stage["reason"] == "interrupted":
            return


def perform(run, work, left):
    """A stage's record, whatever becomes of it."""
    longest = max(LIMITS.get(run.name, LIMIT), run.args.budget / 4)
    run.seconds = min(longest, left if run.args.only else max(left / 2, 60), left)
    record = dict(stage=run.name, device=run.device, outcome="passed", seconds=0, reason=None, exit_code=None)
    start, result, text = time.monotonic(), None, ""
    try:
        if left < LEAST_SECONDS:
            raise NotRun("the budget is spent")
        result, text, record["exit_code"] = work(run)
    except NotRun as cause:
        record.update(outcome="not run", reason=str(cause))
    except Failed as cause:
        result, text = cause.result, cause.text
        record.update(outcome="failed", reason=str(cause), exit_code=cause.exit_code, output=cause.output)
    except Interrupted:
        record.update(outcome="failed", reason="interrupted")
        result, text = run.so_far, f"{len(run.so_far)} tests were done" if run.so_far else ""
    # Whatever is wrong with one stage, the others have something to tell.
    except Exception as cause:
        record.update(outcome="failed", reason=f"{type(cause).__name__}: {cause}")
    record.update(seconds=round(time.monotonic() - start, 1), commands=run.commands, summary=text, result=result)
    return record
