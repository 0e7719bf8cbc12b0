"""PyTorch's side: its command, what it reports, and what its Python has."""
from aios_scripts.compare_hf.aios_side import RATE
from aios_scripts.compare_hf.forms import FORMS, PACKAGES, asks
from aios_scripts.compare_torch.measuring import RESIDENT, measure
from aios_scripts.repository import ROOT

# feature: flags of scripts/torch_decoder.py
FLAGS = {
    "checkpointing": "--gradient-checkpointing",
    "amp": "--amp",
    "8-bit": "--use-8bit-optimizer",
    "bf16-weights": "--bf16-weights",
    "lora": "--lora",
    "nf4": "--nf4",
}
# What its Python has.
DESCRIBE = """
import importlib.metadata, json, platform, torch, transformers
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
print(json.dumps(dict(python=platform.python_version(), torch=torch.__version__, transformers=transformers.__version__,
                      bitsandbytes=version("bitsandbytes"), peft=version("peft"), cuda=None, gpus=[])))
"""


def missing(about, form):
    """Why PyTorch's side cannot do a form here."""
    for feature in FORMS[form] or []:
        package = PACKAGES.get(feature)
        if package and not about[package]:
            return f"{package} is not installed"
    return about["no_8_bit"] if asks(form, "8-bit") else None


def flags(form):
    return [FLAGS[feature] for feature in FORMS[form] or []]


def torch_command(python, args, form, shape, steps, warmup, tokens):
    # fmt: off
    return [
        python, str(ROOT / "scripts" / "torch_decoder.py"), str(args.model), "--tokens", str(tokens), "--lr", RATE,
        "--batch-size", str(shape[0]), "--max-seq-len", str(shape[1]), "--steps", str(steps), "--warmup", str(warmup),
        "--threads", str(args.threads), *flags(form),
    ]
    # fmt: on


def run_torch(command, args):
    done = measure(command, args.threads, minutes=args.run_minutes)
    (report,) = done.pop("lines")
    return dict(
        done,
        tokens_per_second=report["tokens_per_second"],
        peak_bytes=done["rss_bytes"],
        peak_kind=RESIDENT,
        parameters=report["parameters"],
        first_ce=report["losses"][0],
        last_ce=report["losses"][-1],
        losses=report["losses"],
        device="cpu",
    )
