"""What memory fine-tuning of well-known models is predicted to take, and which cards have it."""
from aios_scripts.benchmarks.words import block
from aios_scripts.figures import markdown

CARDS = [6, 8, 12, 16, 24]  # GB as they are sold: GiB of memory
USABLE = 0.9  # The driver, the screen and the pools' gaps take the rest.
FORMS = {"qlora": "QLoRA: rank 16, nf4"}


def fits(path, data):
    words = f"{data['version']}. Predicted by `aios hrm-hf arch-summary` from the files in [bench/models](bench/models), not measured:"
    words += " one sequence a step, gradient checkpointing, activations in bf16. In brackets the smallest card of"
    words += f" {', '.join(map(str, CARDS[:-1]))} or {CARDS[-1]} GB of which the prediction takes at most {USABLE:.0%}."
    return "\n\n".join([words, fits_table(path, data), block("scripts/what_fits")])


def fits_table(path, data):
    head = ["model", "parameters", "trained", *(f"{length:,} tokens" for length in data["lengths"])]
    models = list(dict.fromkeys(row["model"] for row in data["rows"]))
    return markdown(head, [line(data, model) for model in models], words=1)


def line(data, model):
    own = {row["max_seq_len"]: row for row in data["rows"] if row["model"] == model}
    first = next(iter(own.values()))
    cells = [cell(own[length]) if length in own else "-" for length in data["lengths"]]
    adapter = sum(part["parameters"] for part in first["parts"] if part["name"] == "adapter")
    return [model, f"{(first['parameters'] - adapter) / 1e9:.2f} G", FORMS[first["form"]], *cells]


def cell(row):
    gib = row["memory"]["total"] / 2**30
    card = next((card for card in CARDS if gib <= USABLE * card), None)
    return f"{gib:.1f} GiB (**{card} GB**)" if card else f"{gib:.1f} GiB"
