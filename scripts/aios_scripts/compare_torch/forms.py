"""The forms of training that are compared, and what else a run is named by."""

# Features a form asks of both; None: no flag for aios, none of them for PyTorch.
FORMS = {
    "plain": [],
    "checkpointing": ["checkpointing"],
    "amp": ["amp"],
    "8-bit": ["8-bit"],
    "all": ["checkpointing", "amp", "8-bit"],
    "defaults": None,
}
NAMES = {"aios": "aios", "torch": "PyTorch", "torch_compile": "PyTorch, compiled"}


def asks(form, feature):
    return feature in (FORMS[form] or [])


def flags(form, choices):
    """Those that make a form; `choices` is feature: (flags with it, flags without it)."""
    return [flag for feature, (on, off) in choices.items() for flag in (on if asks(form, feature) else off)]
