"""Stages: which devices there are, and whether they compute what the CPU computes."""
import json

from aios_scripts.gpu_check.run import Failed, finish, parsed


def list_devices(run):
    table, report = run.aios("devices"), run.aios("devices", "--json")
    if table.exit_code != 0:
        raise Failed(table.why(), exit_code=table.exit_code, output=table.tail())
    return dict(table=table.stdout, report=json.loads(report.stdout)), f"```\n{table.stdout}```", 0


def check_devices(run):
    done = run.aios("devices", "--check", "--json")
    report = parsed(done)
    checks = (report or {}).get("checks", [])
    text = "\n".join(f"- {c['device']} {c['work']}: {c['problem'] or 'as on the CPU'}" for c in checks)
    return finish(done, report, text)
