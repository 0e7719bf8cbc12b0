"""Whatever a reader has to know before comparing the figures of a cell."""
from aios_scripts.compare_torch.forms import FORMS, NAMES, asks

# Two fresh models of this vocabulary are closer at their first step than this, in nats.
SAME_START = 0.5


def notes(form, sides):
    found = []
    for program, side in sides.items():
        name = NAMES[program]
        if FORMS[form] is None and side["runs"]:
            found.append(f"{name} ran with {in_words(side['runs'][0]['as_run'])}")
        for run in side["runs"]:
            found += happened(name, run)
            found += [f"{name} {text}" for text in unlike(form, run["as_run"])]
    return list(dict.fromkeys([*found, *different(sides)]))


def happened(name, run):
    """What befell a run of a program."""
    yield from (f"{name} fell back: {text}" for text in run.get("fallbacks", []))
    yield from (f"{name} halved its batch: {text}" for text in run.get("smaller_batches", []))
    if run["swap_grown_bytes"]:
        yield f"the machine swapped during a run of {name}, so that its memory is more than measured"


def in_words(run):
    optimizer = {"adamw": "32-bit AdamW", "adamw8bit": "8-bit AdamW"}.get(run["optimizer"], run["optimizer"])
    recompute = "activations computed again" if run["checkpointing"] else "all activations kept"
    return ", ".join([run["precision"], recompute, optimizer])


def unlike(form, run):
    """In what a run is not what its form says."""
    if FORMS[form] is None:
        return
    if (run["precision"] != "f32") != asks(form, "amp"):
        yield f"ran in {run['precision']}"
    if run["checkpointing"] != asks(form, "checkpointing"):
        yield f"ran {'with' if run['checkpointing'] else 'without'} checkpointing"
    if (run["optimizer"] != "adamw") != asks(form, "8-bit"):
        yield f"ran with {run['optimizer']}"


def different(sides, same_start=SAME_START):
    """In what PyTorch's model or task is not ours."""
    ours = sides["aios"]
    for program, side in sides.items():
        if not (ours["runs"] and side["runs"]):
            continue
        if side["parameters"] != ours["parameters"]:
            yield f"parameters differ: aios {ours['parameters']}, {NAMES[program]} {side['parameters']}"
        if abs(side["first_ce"] - ours["first_ce"]) > same_start:
            yield f"the first cross-entropies differ: aios {ours['first_ce']:.2f}, {NAMES[program]} {side['first_ce']:.2f}"
