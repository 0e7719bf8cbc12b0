"""The record of a run: all of it as JSON, and a summary to read."""
import datetime
import itertools
import json
import re

from aios_scripts.figures import markdown, mib
from aios_scripts.output import write


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def unused(folder, gpu, date):
    """A path without an extension; a second run on a day does not overwrite the first."""
    name = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")[:60] or "gpu"
    endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    paths = (folder / f"{name}-{date}{ending}" for ending in endings)
    return next(path for path in paths if not path.with_suffix(".json").exists())


def save(record, results):
    """One line of JSON for each stage, so that versions of the file can be compared."""
    results["summary"] = summarize(results)
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in results.items() if key != "stages"]
    stages = ",\n  ".join(json.dumps(stage) for stage in results["stages"])
    write(record.with_suffix(".json"), "{" + ",\n".join(lines + [f'"stages": [\n  {stages}\n]']) + "}\n")
    write(record.with_suffix(".md"), results["summary"])


def summarize(results):
    lines = [f"# {results['devices'][0]['name']}, {results['date'][:10]}", "", setting(results)]
    if results["toy"]:
        lines += ["", "**No GPU: a trial of the script at tiny sizes.**"]
    if not results["finished"]:
        lines += ["", "**The run is not finished.**"]
    rows = [
        [s["stage"], s["device"], s["outcome"], f"{s['seconds']:.1f}", (s["reason"] or "").replace("|", "/")[:160]]
        for s in results["stages"]
    ]
    lines += ["", markdown(["stage", "device", "outcome", "seconds", "why"], rows)]
    for stage in results["stages"]:
        if stage["outcome"] != "not run" and (stage["summary"] or stage.get("output")):
            lines += section(stage)
    return "\n".join(lines) + "\n"


def setting(results):
    """What was run, and where."""
    machine, build, gpu = results["machine"], results["build"], results["devices"][0]
    smi = machine["nvidia_smi"]
    driver = gpu["driver"] or (f"driver {smi[0]['driver_version']}" if smi else "")
    commit = (build["commit"] or "unknown")[:10] + (" with changes" if build["changed"] else "")
    what = filter(None, [f"{results['version']} (commit {commit})", gpu["api"], driver, mib(gpu["memory_bytes"])])
    return f"{', '.join(what)}; {machine['cpu']}, {machine['cores']} CPUs, {machine['system']}."


def section(stage):
    lines = ["", f"## {stage['stage']}, {stage['device']}", ""]
    lines += ["".join(f"    {command}\n" for command in stage["commands"])] if stage["commands"] else []
    lines += [stage["summary"]] if stage["summary"] else []
    if stage.get("output"):
        lines += ["", f"Failed: {stage['reason']}", "", "```", stage["output"], "```"]
    return lines
