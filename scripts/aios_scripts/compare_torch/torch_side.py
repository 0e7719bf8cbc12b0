"""PyTorch's side: its command, what it reports, and what its Python has."""
from aios_scripts.compare_torch.forms import flags
from aios_scripts.compare_torch.measuring import ON_DEVICE, RESIDENT, Failed, measure
from aios_scripts.output import refuse
from aios_scripts.repository import ROOT

# feature: (with it, without it)
FLAGS = {
    "checkpointing": (["--gradient-checkpointing"], ["--no-gradient-checkpointing"]),
    "amp": (["--amp"], ["--no-amp"]),
    "8-bit": (["--use-8bit-optimizer"], []),
}

# What the PyTorch side has. The second makes one 8-bit step, by itself because a library that does not fit may crash.
DESCRIBE = """
import importlib.metadata, json, platform, torch
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(json.dumps(dict(python=platform.python_version(), torch=torch.__version__, bitsandbytes=version("bitsandbytes"),
                      cuda=torch.version.cuda, gpus=gpus)))
"""
TRY_8_BIT = """
import sys, torch, bitsandbytes
weight = torch.nn.Parameter(torch.ones(256, 64, device=sys.argv[1]))
optimizer = bitsandbytes.optim.AdamW8bit([weight], lr=1e-3)
weight.grad = torch.full_like(weight, 0.01)
optimizer.step()
if optimizer.state[weight]["state1"].dtype != torch.uint8:
    raise RuntimeError("its state is not in 8 bits here")
if not 0.9 < float(weight.mean()) < 1:
    raise RuntimeError("its step is wrong here")
"""


def find_yardstick():
    shared = ROOT.parent / "shared" / "peers" / "torch_actv1.py"
    return str(shared if shared.is_file() else ROOT / "scripts" / "torch_actv1.py")


def describe_torch(python, args, describe=DESCRIBE):
    """Versions and devices of the PyTorch side; why 8-bit states are not available, if so."""
    try:
        done = measure([python, "-c", describe], args.threads)
    except Failed as cause:
        refuse(f"PyTorch does not start: {cause.args[0]}")
    about = dict(done["lines"][0], idle_rss_bytes=done["rss_bytes"])
    args.torch_device = args.torch_device or torch_device(args.device, about)
    kind, _, index = args.torch_device.partition(":")
    if kind == "cuda" and int(index or 0) >= len(about["gpus"]):
        refuse(f"PyTorch has no {args.torch_device} here, only {', '.join(about['gpus']) or 'the CPU'}")
    about["gpu"] = about["gpus"][int(index or 0)] if kind == "cuda" else None
    about["no_8_bit"] = why_no_8_bit(python, args) if args.wants_8_bit else None
    return about


def torch_device(device, about):
    if not device.startswith("wgpu"):
        return device
    if about["gpus"]:
        return "cuda"
    refuse("PyTorch has no wgpu, and no CUDA here; name what to compare with by --torch-device")


def why_no_8_bit(python, args):
    try:
        measure([python, "-c", TRY_8_BIT, args.torch_device], args.threads)
    except Failed as cause:
        return f"bitsandbytes: {cause.args[0]}"
    return None


def torch_command(python, args, program, form, shape, steps, warmup, tokens):
    # fmt: off
    return [
        python, find_yardstick(), "--device", args.torch_device, "--threads", str(args.threads), "--tokens", str(tokens),
        "--batch-size", str(shape[0]), "--max-seq-len", str(shape[1]), "--steps", str(steps), "--warmup", str(warmup),
        *flags(form, FLAGS), *(["--compile"] if program == "torch_compile" else []),
    ]
    # fmt: on


def run_torch(command, args):
    done = measure(command, args.threads, minutes=args.run_minutes)
    (report,) = done.pop("lines")
    on_cpu = args.torch_device == "cpu"
    return dict(
        done,
        tokens_per_second=report["tokens_per_second"],
        peak_bytes=done["rss_bytes"] if on_cpu else report["peak_bytes"],
        peak_kind=RESIDENT if on_cpu else ON_DEVICE,
        reserved_bytes=report.get("reserved_bytes"),
        parameters=report["parameters"],
        first_ce=report["first_ce"],
        last_ce=report["last_ce"],
        device=report["device"],
        as_run=dict(
            precision="bf16" if report["amp"] else "f32",
            checkpointing=report["gradient_checkpointing"],
            optimizer="adamw8bit" if report["use_8bit_optimizer"] else "adamw",
            compiled=report["compile"],
        ),
    )
