"""Stages: the comparisons with PyTorch, if a Python has it that can use the device."""
import json
import sys

from aios_scripts.compare_torch.report import table
from aios_scripts.figures import markdown
from aios_scripts.gpu_check.benches import half, number
from aios_scripts.gpu_check.run import NotRun, finish, parsed
from aios_scripts.processes import execute
from aios_scripts.pytorch import pythons
from aios_scripts.repository import ROOT


def compare_torch(run):
    output = run.scratch / f"{run.name}.json"
    compiled = ["--compile"] if run.kind == "cuda" else []
    done, peer = compared(run, "compare_torch", *compiled, "-o", output)
    # After every cell it writes what it has.
    report = json.loads(output.read_text()) if output.exists() else None
    text = f"```\n{table(report['results'])}\n```" if report else ""
    return finish(done, report and dict(report, **peer), text)


def compare_attention(run):
    if run.kind == "wgpu":
        raise NotRun("PyTorch has no wgpu")
    dtype = ["--dtype", half(run.adapter)] if run.kind == "cuda" else []
    done, peer = compared(run, "compare_torch_attention", *dtype, "--json")
    report = parsed(done)
    return finish(done, report and dict(report, **peer), attention_table(report["results"]) if report else "")


def compared(run, script, *flags):
    """How the script ended, and which PyTorch it was."""
    python, version = find_torch(run)
    words = ["--aios", run.binary, "--device", run.device, *run.sizes(), *(["--python", python] if python else []), *flags]
    run.note(f"scripts/{script}", *words)
    done = execute([sys.executable, ROOT / "scripts" / script, *words], run.seconds, run.env, run.scratch)
    return done, dict(python=python, torch_version=version)


def find_torch(run):
    """(Python that has torch and numpy, version), and on CUDA sees the GPU with them."""
    reasons = []
    for python in pythons(run.args.python):
        done = execute([python, "-c", "import numpy, torch; print(torch.__version__, torch.cuda.is_available())"], 90)
        version, _, sees = done.stdout.strip().partition(" ")
        if done.exit_code == 0 and (sees == "True" or run.kind == "cpu"):
            return python, version
        reasons.append(f"{python}: " + (done.why() if done.exit_code != 0 else f"PyTorch {version} sees no GPU"))
    if run.args.install_torch:
        return None, None
    raise NotRun("no Python with PyTorch (--python names one, --install-torch installs it): " + "; ".join(reasons))


def attention_table(results):
    """All there is but the single rounds."""
    head = [name for name, value in results[0].items() if not isinstance(value, list)]
    cell = lambda value: number(value) if isinstance(value, float) else value
    return markdown(head, [[cell(row[name]) for name in head] for row in results])
