"""What `aios bench` measured."""
import re

from aios_scripts.benchmarks.words import block, missing_part, number
from aios_scripts.figures import gib, markdown, mib


def bench_line(data):
    return f"{data['device']}, {data['backend']}; aios {data['version']}" + (f"; {data['model']}" if "model" in data else "")


def of_model(data):
    """The flag that names a Hugging Face model."""
    return f" --model {data['model']}" if "model" in data else ""


def memory(path, data):
    shape = f"{data['batch_size']} × {data['max_seq_len']:,} tokens, hidden size {data['hidden_size']}"
    words = f"{bench_line(data)}. {shape}. Each purpose at its own largest, the peak at the worst moment, in MiB."
    flags = f"--device {data['backend']}{of_model(data)} --batch-size {data['batch_size']}"
    flags += f" --max-seq-len {data['max_seq_len']} --json"
    return "\n\n".join([words, memory_table(path, data), flags_of_rows(data), block(f"aios bench memory {flags}")])


def memory_table(path, data):
    plain = plain_peak(data)
    head = ["row", "weights", "gradients", "optimizer", "activations", "loss", "**peak, MiB**", "of plain", "predicted"]
    return markdown(head, [memory_row(row, plain) for row in data["rows"]], words=1)


def plain_peak(data):
    """What the other rows are compared with; None where it was not measured."""
    return next((r["measured"]["peak"] for r in data["rows"] if r["name"] == "plain" and r.get("measured")), None)


def memory_row(row, plain):
    measured = row.get("measured")
    if not measured:
        return [f"`{row['name']}`", *["-"] * 5, missing_part(row["error"]), "-", "-"]
    parts = [f"{measured[name] / 2**20:.0f}" for name in ("weights", "gradients", "optimizer", "activations", "loss")]
    parts += [f"**{measured['peak'] / 2**20:.0f}**", f"{measured['peak'] / plain:.2f}" if plain else "-"]
    return [f"`{row['name']}`", *parts, off_by(row["predicted"]["total"], measured["peak"])]


def off_by(predicted, measured):
    text = f"{100 * (predicted / measured - 1):+.1f} %"
    return text[1:] if text[1:] == "0.0 %" else text


def flags_of_rows(data):
    rows = [[f"`{row['name']}`", f"`{' '.join(row['flags'])}`" if row["flags"] else "none"] for row in data["rows"]]
    return f"<details><summary>Flags of each row</summary>\n\n{markdown(['row', 'flags'], rows, words=2)}\n\n</details>"


def memory_by_length(path, tables):
    name = tables[0]["rows"][0]["name"]
    rows = []
    for data in tables:
        row = data["rows"][0]
        measured = row["measured"]
        rows.append([
            f"{data['max_seq_len']:,}", mib(measured["activations"]), mib(measured["loss"]), f"**{mib(measured['peak'])}**",
            off_by(row["predicted"]["total"], measured["peak"]),
        ])  # fmt: skip
    words = f"{bench_line(tables[0])}. Row `{name}`, batch size {tables[0]['batch_size']}."
    flags = f"--device {tables[0]['backend']}{of_model(tables[0])} --rows {name} --batch-size {tables[0]['batch_size']}"
    command = f"aios bench memory {flags} --max-seq-len N --json"
    table = markdown(["tokens", "activations", "loss", "**peak**", "predicted"], rows, words=0)
    return "\n\n".join([words, table, block(command)])


def attention(path, data):
    words = f"{bench_line(data)}. {data['batch_size']} × {data['heads']} heads, causal, {data['dtype']}."
    words += " Forward and backward; extra memory is all but the inputs."
    parts = [words]
    for dim in sorted({r["head_dim"] for r in data["rows"]}):
        parts += [f"**Heads of {dim}**", attention_table(data, dim), growth(data, dim)]
    lengths = sorted({r["seq_len"] for r in data["rows"]})
    flags = f"--device {data['backend']} --heads {data['heads']} --dtype {data['dtype']}"
    command = f"aios bench attention {flags} --seq-lens {','.join(map(str, lengths))} --json"
    return "\n\n".join([*filter(None, parts), block(command)])


def attention_table(data, dim):
    rows = [r for r in data["rows"] if r["head_dim"] == dim and r["pass"] == "forward+backward"]
    window = max(r["window"] for r in rows)
    columns = [("flash", 0), ("sdpa", 0), *([("flash", window)] if window else [])]
    found = {(r["path"], r["window"], r["seq_len"]): r for r in rows}
    head = ["tokens", *(f"{label(*column)}, ms" for column in columns), "flash, extra memory", "SDPA, extra memory"]
    lines = []
    for length in sorted({r["seq_len"] for r in rows}):
        timed = [milliseconds(found.get((path, window, length))) for path, window in columns]
        lines.append([f"{length:,}", *timed, *(extra(found.get((path, 0, length))) for path in ("flash", "sdpa"))])
    return markdown(head, lines, words=0)


def label(path, window):
    return {"flash": "flash", "sdpa": "SDPA"}[path] + (f", window {window}" if window else "")


def milliseconds(row):
    return "-" if not row else missing_part(row["error"]) if row["error"] else number(row["ms"])


def extra(row):
    if not row:
        return "-"
    if row["error"]:
        needed = re.search(r"needs ([\d.]+ \w+)", row["error"])
        return f"{needed[1]} needed" if needed else "-"
    return mib(row["extra_bytes"])


def growth(data, dim):
    """How time grows with the length, by the fit the benchmark makes."""
    rows = [r for r in data.get("growth", []) if r["head_dim"] == dim and r["pass"] == "forward+backward"]
    rows = [r for r in rows if r.get("time") is not None and (r["path"], bool(r["window"])) != ("sdpa", True)]
    if not rows:
        return None
    return "Time grows as " + ", ".join(f"N^{r['time']:.2f} ({label(r['path'], r['window'])})" for r in rows) + "."


def context(path, data):
    words = f"{bench_line(data)}. One step on one sequence in at most {gib(data['memory_limit'])}: peak memory and tokens"
    words += f" a second. Hidden size {data['hidden_size']}, window {data['window_size']:,}"
    words += f", chunks of {data['chunk_size']:,}."
    lengths = sorted({r["max_seq_len"] for r in data["rows"]})
    forms = list(dict.fromkeys(r["form"] for r in data["rows"]))
    flags = f"--device {data['backend']}{of_model(data)} --memory-limit {data['memory_limit'] // 2**20}MiB"
    flags += f" --window-size {data['window_size']} --chunk-size {data['chunk_size']}"
    if "halt_max_steps" in data and "model" not in data:
        flags += f" --halt-max-steps {data['halt_max_steps']}"
    flags += f" --forms {','.join(forms)} --seq-lens {','.join(map(str, lengths))}"
    command = f"aios bench context {flags} --json"
    return "\n\n".join([words, context_table(path, data), block(command)])


def context_table(path, data):
    forms = list(dict.fromkeys(r["form"] for r in data["rows"]))
    found = {(r["form"], r["max_seq_len"]): r for r in data["rows"]}
    rows = []
    for length in sorted({r["max_seq_len"] for r in data["rows"]}):
        rows.append([f"{length:,}", *(context_cell(found.get((form, length))) for form in forms)])
    return markdown(["tokens", *(f"`{form}`" for form in forms)], rows, words=0)


def context_cell(row):
    if not row:
        return "-"
    if row.get("error"):
        return missing_part(row["error"])
    return f"{mib(row['peak'])}, {number(row['tokens_per_second'])}"


def step(path, data):
    """Operations of a step, those that take longest first."""
    precision = data.get("precision", "f32")
    peak, seconds = data["peak_flops_per_second"], data["seconds"]
    rate = data["model_flops"] / seconds
    shape = f"{data['batch_size']} × {data['max_seq_len']:,} tokens"
    model = data.get("model", "the default model")
    words = (
        f"{data['device']}; aios {data['version']}. {model}, {shape}, products in {precision}: {1000 * seconds:,.0f} ms a step, "
        f"{rate / 1e9:,.0f} GFLOP/s of the {peak / 1e9:,.0f} that {data['threads']} threads reach on registers alone in {precision} "
        f"({100 * rate / peak:.0f} %)."
    )
    head = ["operation", "calls", "ms", "share", "GFLOP/s", "of peak", "GB/s"]
    flags = f"--device cpu{of_model(data)} --batch-size {data['batch_size']} --max-seq-len {data['max_seq_len']}"
    amp = "--amp" if precision == "bf16" else "--no-amp"
    return "\n\n".join([words, markdown(head, [step_row(row, data) for row in data["rows"]], words=1), block(f"aios bench step {flags} {amp} --json")])


def step_row(row, data):
    seconds, flops = row["seconds"], row["flops"]
    rates = [f"{flops / seconds / 1e9:,.0f}", f"{100 * flops / seconds / data['peak_flops_per_second']:.0f} %"] if flops else ["-", "-"]
    share = f"{100 * seconds / data['seconds']:.1f} %"
    return [row["operation"], f"{row['calls']:.0f}", f"{1000 * seconds:.1f}", share, *rates, f"{row['bytes'] / seconds / 1e9:.1f}"]
