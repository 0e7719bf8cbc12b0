"""Stages: training runs, whose loss has to fall."""
import json
import statistics

from aios_scripts.figures import mib
from aios_scripts.gpu_check.run import Failed, finish
from aios_scripts.metrics import by_kind, fallback_text
from aios_scripts.repository import ROOT, SAMPLE

EXAMPLE = (
    "hrm-hf train-actv1 --model gpt2 --dataset-file {sample} --steps 50 --batch-size 1 --gradient-checkpointing --amp"
    " --use-8bit-optimizer --window-size 2048"
)
DEFAULT = "train --dataset-file {sample}"
QUICKSTART = (
    "train --config {root}/configs/quickstart.toml --model {root}/training_data/sample_tokenizer --dataset-file {sample}"
    " --sample-every 0"
)


def training(words):
    def stage(run):
        log = run.scratch / f"{run.name}-{run.kind}.jsonl"
        bundles = run.scratch / "brains" / f"{run.name}-{run.kind}"
        outputs = ["--device", run.device, "--log-file", log, "--bundle-dir", bundles]
        done = run.aios(*words.format(root=ROOT, sample=SAMPLE).split(), *outputs, *run.sizes())
        events = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        facts = learned(events)
        text = learned_text(facts) if facts else ""
        result = dict(facts=facts, events=events)
        if done.exit_code == 0 and facts and facts["problem"]:
            raise Failed(facts["problem"], result, text, 0, done.tail())
        return finish(done, result, text)

    return stage


def learned(events):
    """The figures of a run, as far as it came."""
    of = by_kind(events)
    steps = of.get("step", [])
    if not steps or "start" not in of:
        return None
    start, ce = of["start"][0], [step["ce"] for step in steps]
    # The first steps compile kernels.
    later = steps[len(steps) // 2 :]
    last = [value for value in ce[-10:] if value is not None]
    mean = statistics.mean(last) if last else None
    return dict(
        device=start["device"], backend=start["backend"], attention=start["attention"], precision=start["precision"],
        optimizer=start["optimizer"], parameters=start["parameters"], steps=len(steps), loss_first=steps[0]["loss"],
        loss_last=steps[-1]["loss"], ce_first=ce[0], ce_last_10=mean,
        tokens_per_second=statistics.median(step["tokens_per_second"] for step in later),
        first_step_seconds=steps[0]["seconds"], step_seconds=statistics.median(step["seconds"] for step in later),
        peak_bytes=max(step["memory"]["peak_bytes"] for step in steps),
        host_peak_bytes=max(step["memory"]["host_peak_bytes"] for step in steps),
        reserved_bytes=max(step["memory"]["reserved_bytes"] for step in steps),
        skipped=sum(step["skipped"] for step in steps), fallbacks=of.get("fallback", []),
        oom_backoffs=of.get("oom_backoff", []), end=of["end"][-1]["reason"] if "end" in of else None,
        problem=problem(ce, mean),
    )  # fmt: skip


def problem(ce, mean):
    """What is wrong with the cross-entropies; too few of them need not fall."""
    if None in ce:
        return f"{ce.count(None)} losses are not finite"
    if len(ce) >= 20 and not mean < ce[0]:
        return f"the loss did not fall: from {ce[0]:.3f} to {mean:.3f}"
    return None


def learned_text(facts):
    count = lambda value: "?" if value is None else f"{value:.3f}"
    lines = [
        f"- {facts['device']}, {facts['backend']}: attention {facts['attention']['path']}, computes in "
        f"{facts['precision']['compute']}, optimizer {facts['optimizer']['kind']}, {facts['parameters']:,} parameters",
        f"- {facts['steps']} steps, cross-entropy from {count(facts['ce_first'])} to {count(facts['ce_last_10'])} (mean of "
        f"the last ten), {facts['skipped']} skipped",
        f"- {facts['tokens_per_second']:,.0f} tokens/s, {facts['step_seconds'] * 1e3:.1f} ms a step (median of the second "
        f"half); the first step took {facts['first_step_seconds']:.1f} s",
        f"- peak {mib(facts['peak_bytes'])} on the device ({mib(facts['reserved_bytes'])} reserved), "
        f"{mib(facts['host_peak_bytes'])} on the host",
    ]
    lines += [f"- fell back: {fallback_text(event)}" for event in facts["fallbacks"]]
    return "\n".join(lines)
