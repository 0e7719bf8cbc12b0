"""Several ranks on links of a given rate."""
from aios_scripts.benchmarks.words import block
from aios_scripts.figures import markdown


def distributed(path, data):
    machine = data["machine"]
    words = f"{machine['cpu']}, {machine['cores']} cores; {data['version']}. CPU ranks with one thread each, in network namespaces,"
    words += " 8 x 128 tokens a rank and step of a model of 10 M parameters, or 1 x 512 of a LoRA of rank 16. More ranks than cores share"
    words += " them: their speed is that of the machine. Least is 2 (N - 1) / N times the gradients' bytes, over the steps between two"
    words += " exchanges. Hidden is the share of an exchange in which rank 0 had something else to do."
    return "\n\n".join([words, table(data), block(data["command"])])


def table(data):
    head = ["trained", "ranks", "link", "local steps", "tokens/s", "of one rank", "MB sent a step", "of the least", "exchange", "hidden"]
    alone = {row["model"]: row["tokens_per_second"] for row in data["rows"] if row["ranks"] == 1}
    return markdown(head, [line(row, alone.get(row["model"])) for row in data["rows"]], words=1)


def line(row, alone):
    several = row["ranks"] > 1
    least = row["least_bytes_a_step"]
    name = "all" if row["model"] == "actv1" else f"LoRA of {row['model']}"
    return [
        name,
        str(row["ranks"]),
        row["rate"] if several else "-",
        str(row["local_steps"] or "-"),
        f"{row['tokens_per_second']:,.0f}",
        f"{row['tokens_per_second'] / alone:.2f}" if alone else "-",
        f"{row['bytes_a_step'] / 1e6:.1f}" if several else "-",
        f"{row['bytes_a_step'] / least:.3f}" if several else "-",
        f"{row['exchange_seconds']:.2f} s" if several and not row["local_steps"] else "-",
        f"{row['hidden']:.0%}" if several and row["hidden"] is not None else "-",
    ]
