"""The forms of fine-tuning that are compared, and what each asks of both programs."""

# Features a form asks of both; None: no flag for aios, none of them for PyTorch.
FORMS = {
    "full": [],
    "full-ckpt": ["checkpointing"],
    "full-bf16": ["amp"],
    "full-ckpt-8bit": ["checkpointing", "8-bit"],
    "full-bf16-ckpt-8bit": ["amp", "checkpointing", "8-bit"],
    "bf16-weights": ["bf16-weights"],
    "bf16-weights-ckpt-8bit": ["bf16-weights", "checkpointing", "8-bit"],
    "defaults": None,
    "lora": ["lora"],
    "lora-ckpt": ["lora", "checkpointing"],
    "lora-bf16-ckpt": ["amp", "lora", "checkpointing"],
    "qlora-ckpt": ["lora", "nf4", "checkpointing"],
    "qlora-bf16-ckpt": ["amp", "lora", "nf4", "checkpointing"],
}
# feature: (flags of aios with it, without it)
FLAGS = {
    "checkpointing": (["--gradient-checkpointing"], ["--no-gradient-checkpointing"]),
    "amp": (["--amp", "--amp-dtype", "bf16"], ["--no-amp"]),
    "8-bit": (["--use-8bit-optimizer"], ["--no-8bit-optimizer"]),
    "bf16-weights": (["--weights-dtype", "bf16"], []),
    "lora": (["--lora-rank", "16"], []),
    "nf4": (["--quantize", "nf4"], []),
}
# What PyTorch's side needs beside transformers.
PACKAGES = {"8-bit": "bitsandbytes", "lora": "peft", "nf4": "bitsandbytes"}


def asks(form, feature):
    return feature in (FORMS[form] or [])


def aios_flags(form):
    if FORMS[form] is None:
        return []
    return [flag for feature, (on, off) in FLAGS.items() for flag in (on if asks(form, feature) else off)]


def packages(forms):
    return sorted({PACKAGES[feature] for form in forms for feature in FORMS[form] or [] if feature in PACKAGES})


def in_half(form):
    """Whether PyTorch computes in bf16."""
    return any(asks(form, feature) for feature in ("amp", "bf16-weights", "nf4"))
