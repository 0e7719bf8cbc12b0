"""What became of trainings that were killed at random moments."""
from aios_scripts.benchmarks.words import block
from aios_scripts.figures import markdown

WHO = {"parent": "the parent", "child": "the training process", "both": "both, with their group"}


def kills(path, data):
    killed = [row for row in data["rows"] if row["hit"]]
    words = f"{data['machine']['cpu']}, {data['machine']['cores']} cores; {data['version']}. Runs of {data['steps']} steps that"
    words += f" take {data['seconds_of_a_run']:.1f} s and save every second step, each killed once (SIGKILL) at a random moment"
    words += " and resumed; weights and optimizer state are compared with those of a run that was left alone."
    command = f"scripts/check_kills --kills {len(killed)} --seed {data['seed']}"
    return "\n\n".join([words, kills_table(path, data), block(command)])


def kills_table(path, data):
    killed = [row for row in data["rows"] if row["hit"]]
    rows = [line(WHO[who], [row for row in killed if row["target"] == who]) for who in WHO]
    head = ["killed", "runs", "before the first save", "during a save", "**the same bit for bit**"]
    return markdown(head, [*rows, line("all", killed)], words=1)


def line(name, rows):
    same = sum(row["same"] for row in rows)
    first = sum(row["saved_step"] == 0 for row in rows)
    return [name, len(rows), first, sum(row["save_under_way"] for row in rows), f"**{same} of {len(rows)}**"]
