"""The comparisons with PyTorch."""
from aios_scripts.benchmarks.words import block, joined, number, shortened, times
from aios_scripts.compare_torch.forms import NAMES
from aios_scripts.figures import gib, markdown, mib

COMPACT_FORMS = ["plain", "defaults", "all"]


def compare_torch(path, data):
    lines = [machine_line(data), ""]
    for batch, length in shapes(data):
        results = [r for r in data["results"] if (r["batch_size"], r["max_seq_len"]) == (batch, length)]
        lines += [f"**{batch} × {length:,} tokens**", "", compare_table(results), ""]
    lines += compare_notes(data)
    return "\n".join([*lines, block(data["command"])])


def machine_line(data):
    hardware, versions, settings = data["hardware"], data["versions"], data["settings"]
    family = f" (family {hardware['cpu_family']}, model {hardware['cpu_model']})" if hardware["cpu_family"] else ""
    vectors = f", {' '.join(hardware['vectors'])}" if hardware["vectors"] else ""
    cpu = f"{hardware['cpu']}{family}, {hardware['cores']} cores{vectors}"
    where = joined([hardware["gpu"], cpu + f", {hardware['memory_bytes'] / 2**30:.0f} GiB", hardware["system"]])
    what = [f"aios {versions['aios']}" + (f" ({data['commit']})" if data["commit"] else ""), f"PyTorch {versions['torch']}"]
    what += [f"{name} {versions[name]}" for name in ("transformers", "bitsandbytes", "peft") if versions.get(name)]
    devices = f"aios on {settings['device']}, PyTorch on {settings['torch_device']}, {settings['threads']} threads each"
    return f"{where}. {', '.join(what)}. {data['date']}; {devices}; in turns."


def shapes(data):
    return list(dict.fromkeys((r["batch_size"], r["max_seq_len"]) for r in data["results"]))


def compare_table(results):
    compiled = any("torch_compile" in r for r in results)
    head = ["form", "rounds", "PyTorch tokens/s", *(["compiled tokens/s"] if compiled else []), "aios tokens/s", "**speed**"]
    head += ["**to compiled**"] if compiled else []
    head += ["PyTorch peak", *(["compiled peak"] if compiled else []), "aios peak", "**memory**"]
    head += ["**to compiled**"] if compiled else []
    return markdown(head, [compare_row(r, compiled) for r in results], words=1)


def compare_row(result, compiled):
    programs = ["torch", *(["torch_compile"] if compiled else [])]
    ratios = [result["ratios"].get(name, dict(speed=None, memory=None)) for name in programs]
    sides = [*programs, "aios"]
    return [
        f"`{result['form']}`",
        result["rounds"],
        *(speed(result.get(name)) for name in sides),
        *(times(ratio["speed"]) for ratio in ratios),
        *(peak(result.get(name)) for name in sides),
        *(times(ratio["memory"]) for ratio in ratios),
    ]


def speed(side):
    if not side:
        return "-"
    if side["runs"]:
        return number(side["tokens_per_second"])
    return "not available" if "not_available" in side else "failed"


def peak(side):
    return gib(side["peak_bytes"]) if side and side["runs"] else "-"


def compare_notes(data):
    """What the cells have to say, each note once, with the cells it is about."""
    about = {}
    for result in data["results"]:
        said = list(result["notes"])
        for name, title in NAMES.items():
            side = result.get(name, {})
            missing = "has fewer runs" if side.get("runs") else "is not available"
            said += [f"{title} {missing}: {side['not_available']}"] if "not_available" in side else []
            said += [f"{title} failed: {side['error']}"] if "error" in side else []
        for note in said:
            about.setdefault(shortened(note, 240), []).append(result)
    lines = [f"- {cells(results)}: {note}." for note, results in about.items()]
    kinds = list(dict.fromkeys(r["aios"]["peak_kind"] for r in data["results"] if r["aios"]["runs"]))
    if kinds:
        lines.insert(0, f"- Peak: {kinds[0]}.{idle(data)}")
    return [*lines, ""]


def idle(data):
    rss = data.get("idle_rss_bytes")
    if not rss or data["settings"]["device"] != "cpu":
        return ""
    return f" Of it {mib(rss['torch'])} are what PyTorch takes when it has only started, {mib(rss['aios'])} what aios does."


def cells(results):
    forms = list(dict.fromkeys(r["form"] for r in results))
    named = []
    for form in forms:
        lengths = [f"{r['batch_size']} × {r['max_seq_len']:,}" for r in results if r["form"] == form]
        named.append((form, ", ".join(lengths)))
    if len({where for _, where in named}) == 1:
        return ", ".join(f"`{form}`" for form, _ in named) + f" ({named[0][1]})"
    return "; ".join(f"`{form}` ({where})" for form, where in named)


def compare_compact(path, data):
    rows = []
    for batch, length in shapes(data):
        for form in COMPACT_FORMS:
            for r in data["results"]:
                if (r["form"], r["batch_size"], r["max_seq_len"]) == (form, batch, length):
                    name, _rounds, *figures = compare_row(r, False)
                    rows.append([f"{batch} × {length:,}", name, *figures])
    head = ["batch × tokens", "form", "PyTorch tokens/s", "aios tokens/s", "speed", "PyTorch peak", "aios peak", "memory"]
    return markdown(head, rows, words=2)


def compare_attention(path, data):
    settings = data["settings"]
    versions = ", ".join(sorted({r["torch"] for r in data["results"]}))
    place = f"{settings['batch_size']} × {settings['heads']} heads, causal, {settings['dtype']}"
    place += f", {settings['rounds']} rounds in turns"
    words = f"PyTorch {versions}; {settings['device']}, {settings['threads']} threads; {place}."
    flags = f" --device {settings['device']} --dtype {settings['dtype']}" if settings["device"] != "cpu" else ""
    command = f"scripts/compare_torch_attention{flags} --json > bench/results/{path.name}"
    return "\n\n".join([words, compare_attention_table(path, data), block(command)])


def compare_attention_table(path, data):
    rows = []
    for r in data["results"]:
        spent = [number(r["torch_ms"]), number(r["aios_ms"]), f"**{r['time_ratio']:.2f}**"]
        rows.append([f"{r['seq_len']:,}", r["head_dim"], r["pass"], *spent])
    return markdown(["tokens", "head", "pass", "PyTorch, ms", "aios, ms", "aios' time / PyTorch's"], rows, words=3)
