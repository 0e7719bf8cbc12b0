"""What was measured, to read and to keep."""
import datetime
import shlex
import sys
from pathlib import Path

from aios_scripts.compare_torch.forms import NAMES
from aios_scripts.compare_torch.measuring import measure
from aios_scripts.compare_torch.torch_side import find_yardstick
from aios_scripts.machine import hardware
from aios_scripts.processes import text_of
from aios_scripts.repository import commit

RATIOS = {"torch": "ratio", "torch_compile": "ratio to compiled"}


def table(results):
    lines = [f"{'shape':>8}  {'form':<13} {'program':<17} {'tokens/s':>9}  {'slowest - fastest':>19}  {'peak memory':>11}"]
    for result in results:
        label = f"{result['batch_size']}x{result['max_seq_len']}"
        form = result["form"]
        for program in ("torch", "torch_compile", "aios"):
            if program in result:
                lines.append(f"{label:>8}  {form:<13} {NAMES[program]:<17} {figures(result[program])}")
                label = form = ""
        for program, ratio in result["ratios"].items():
            if ratio["speed"]:
                lines.append(f"{'':>8}  {'':<13} {RATIOS[program]:<17} {ratio_figures(ratio)}")
    for result in results:
        for note in result["notes"]:
            lines.append(f"{result['batch_size']}x{result['max_seq_len']} {result['form']}: {note}")
    return "\n".join(lines)


def figures(side):
    if not side["runs"]:
        return f"not available: {side['not_available']}" if "not_available" in side else f"failed: {side['error']}"
    spread = f"{side['slowest']:.1f} - {side['fastest']:.1f}"
    failed = f"  then failed: {side['error']}" if "error" in side else ""
    return f"{side['tokens_per_second']:>9.1f}  {spread:>19}  {side['peak_bytes'] / 2**30:>7.2f} GiB{failed}"


def ratio_figures(ratio):
    memory = f"{ratio['memory']:>10.2f}x" if ratio["memory"] else ""
    return f"{ratio['speed']:>8.2f}x  {'':>19}  {memory}"


def origin(bench, benchmark):
    """What was run, of which versions, on what."""
    about, (head, changed) = bench.about, commit()
    return dict(
        benchmark=benchmark,
        date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        command=shlex.join([f"scripts/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        commit=head and head[:12] + ("-dirty" if changed else ""),
        versions=dict(
            aios=(text_of([bench.binary, "--version"]) or "").replace("aios ", ""),
            torch=about["torch"],
            bitsandbytes=about["bitsandbytes"],
            python=about["python"],
            cuda=about["cuda"] if about["gpu"] else None,
            **{name: about[name] for name in ("transformers", "peft") if name in about},
        ),
        hardware=dict(hardware(), gpu=about["gpu"]),
        # What of a resident size no training is to blame for.
        idle_rss_bytes=dict(aios=measure([bench.binary, "--version"], 1)["rss_bytes"], torch=about["idle_rss_bytes"]),
    )


def heading(bench):
    """The report before the first cell."""
    args = bench.args
    return dict(
        origin(bench, "compare-torch"),
        settings=dict(
            device=args.device,
            torch_device=args.torch_device,
            rounds=args.rounds,
            cell_minutes=args.cell_minutes,
            run_minutes=args.run_minutes,
            threads=args.threads,
            compile=args.compile,
            dataset=args.dataset_file.name,
            yardstick=Path(find_yardstick()).parent.name + "/torch_actv1.py",
        ),
    )
