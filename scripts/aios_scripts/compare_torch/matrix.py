"""All cells, one after the other."""
import json
import time

from aios_scripts.compare_torch.cells import compare
from aios_scripts.output import say, write


def measure_all(bench, report, output, completed=lambda result: result):
    cells = [(form, shape) for shape in bench.args.shapes for form in bench.args.forms]
    start = time.monotonic()
    for number, (form, shape) in enumerate(cells, 1):
        minutes = (time.monotonic() - start) / 60
        say(f"{shape[0]}x{shape[1]} {form}: {number} of {len(cells)}, after {minutes:.0f} min")
        report["results"].append(completed(compare(bench, form, shape)))
        report["minutes"] = round((time.monotonic() - start) / 60, 1)
        if output:
            write(output, json.dumps(report, indent=1) + "\n")


def broken(results):
    return [side for result in results for side in result.values() if isinstance(side, dict) and "error" in side]
