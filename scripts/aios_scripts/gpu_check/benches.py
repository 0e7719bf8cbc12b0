"""Stages: what `aios bench` measures, as tables."""
from aios_scripts.benchmarks.bench import off_by, plain_peak
from aios_scripts.figures import markdown, mib
from aios_scripts.gpu_check.run import finish, parsed


def bench(what, chart=False, dtype=None):
    def stage(run):
        words = ["bench", what, "--json", "--device", run.device, *run.sizes()]
        words += ["--chart", run.chart()] if chart else []
        words += ["--dtype", dtype(run.adapter)] if dtype else []
        done = run.aios(*words)
        table = parsed(done)
        return finish(done, table, TABLES[what](table) if table else "")

    return stage


def half(adapter):
    """The format that attention runs in by default."""
    return next((name for name in ("bf16", "f16") if name in adapter["dtypes"]), "f32")


def number(value, form=",.2f"):
    return "-" if value is None else format(value, form)


def memory_table(table):
    plain = plain_peak(table)
    title = f"{table['batch_size']} x {table['max_seq_len']} tokens, hidden size {table['hidden_size']}\n\n"
    head = "row|computes in|weights|gradients|optimizer|activations|loss|peak|of plain|predicted|tokens/s".split("|")
    return title + markdown(head, [memory_row(row, plain) for row in table["rows"]])


def memory_row(row, plain):
    taken = row.get("measured")
    if not taken:
        return [row["name"], row["error"]] + ["-"] * 8 + [""]
    parts = [mib(taken[part]) for part in ("weights", "gradients", "optimizer", "activations", "loss", "peak")]
    share = taken["peak"] / plain if plain else None
    off = off_by(row["predicted"]["total"], taken["peak"])
    speed = number(taken["tokens_per_second"], ",.0f")
    return [row["name"], f"{row['precision']}, {row['attention']}", *parts, number(share), off, speed]


def attention_table(table):
    rows = []
    for row in table["rows"]:
        figures = [number(row["ms"], ",.3f"), number(row["tflops"]), mib(row["extra_bytes"]), number(row["speedup"])]
        rows.append([row["seq_len"], row["head_dim"], row["window"], row["pass"], row["path"], *figures, row["error"] or ""])
    title = f"{table['dtype']}, {table['batch_size']} x {table['heads']} heads\n\n"
    return title + markdown("tokens|head|window|pass|path|ms|TFLOP/s|extra|of SDPA's speed|".split("|"), rows)


def context_table(table):
    rows = []
    for row in table["rows"]:
        off = 100 * (row["predicted"] / row["peak"] - 1) if row.get("peak") else None
        figures = [mib(row.get("peak")), number(off, "+.1f"), number(row.get("tokens_per_second"), ",.0f")]
        rows.append([row["form"], row["max_seq_len"], *figures, row["error"] or ""])
    title = f"window {table['window_size']}, chunks of {table['chunk_size']}\n\n"
    return title + markdown("form|tokens|peak|predicted, %|tokens/s|".split("|"), rows)


TABLES = {"memory": memory_table, "attention": attention_table, "context": context_table}
