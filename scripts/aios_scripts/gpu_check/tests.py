"""A stage: the tests on the device, each in a process of its own: what one does to it is not the next one's fault."""
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aios_scripts.gpu_check.executables import TESTS
from aios_scripts.gpu_check.run import Failed, NotRun
from aios_scripts.output import say
from aios_scripts.processes import STOPPING, execute
from aios_scripts.repository import ROOT

# Those that a software renderer finishes in minutes.
TINY_TESTS = {"all": "attention_on_{kind}", "tensor": "on_wgpu"}


def run_tests(run):
    chosen = TINY_TESTS if run.is_toy() and run.kind != "cpu" else TESTS
    if not run.tests:
        raise NotRun("no test executables: neither cargo nor bin/tests is here")
    end, env = time.monotonic() + run.seconds - 5, environment(run)
    todo = [(exe, name) for exe, part in chosen.items() for name in tests_of(run, exe, part.format(kind=run.kind), env)]
    if not todo:
        raise NotRun(f"there are no tests for {run.kind}")
    jobs = 1 if run.is_toy() else max(1, min(4, (os.cpu_count() or 2) // 2))
    with ThreadPoolExecutor(jobs) as pool:
        tests = list(pool.map(lambda test: one_test(run, *test, env, end), todo))
    run.commands.append(f"test executables {', '.join(chosen)}: tests with on_{run.kind} in their names")
    bad = [test for test in tests if test["outcome"] != "passed"]
    text = f"{len(tests) - len(bad)} of {len(tests)} tests passed"
    text += "".join(f"\n- {t['executable']} {t['name']}: {t['outcome']}{reason(t)}" for t in bad)
    if bad:
        worst = next((t for t in bad if t["outcome"] != "not run"), bad[0])
        raise Failed(f"{len(bad)} of {len(tests)} tests did not pass", tests, text, output=worst["output"])
    return tests, text, 0


def environment(run):
    env = {**run.env, "AIOS_TEST_ROOT": str(ROOT), "AIOS_TEST_BINARY": str(Path(run.binary).resolve())}
    env.update({f"AIOS_REQUIRE_{run.kind.upper()}": "1", "RUST_BACKTRACE": "0"})
    # Timing is not the point here, and a full autotune of every kernel takes longer than the tests.
    env.setdefault("CUBECL_AUTOTUNE_LEVEL", "minimal")
    return env


def tests_of(run, executable, part, env):
    if executable not in run.tests or (executable == "tensor" and run.kind != "wgpu"):
        return []
    listed = execute([run.tests[executable], "--list", "--format", "terse", part], 60, env, run.scratch)
    if listed.exit_code != 0:
        why = f"{executable} does not run here: {listed.why()}"
        raise Failed(why, exit_code=listed.exit_code, output=listed.tail())
    return [line[: -len(": test")] for line in listed.stdout.splitlines() if line.endswith(": test")]


def one_test(run, executable, name, env, end):
    left = end - time.monotonic()
    test = dict(executable=executable, name=name, outcome="not run", seconds=0, output="")
    if left < 1 or STOPPING.is_set():
        return test
    done = execute([run.tests[executable], "--exact", name, "--test-threads=1"], min(left, 240), env, run.scratch)
    if STOPPING.is_set():
        return test
    # None that ran would be none that failed.
    passed = done.exit_code == 0 and "1 passed" in done.stdout
    outcome = "passed" if passed else "took too long" if done.exit_code is None else "failed"
    say(f"    {outcome:13} {done.seconds:6.1f} s  {executable} {name}")
    test.update(outcome=outcome, seconds=done.seconds, output="" if passed else done.tail())
    run.so_far.append(test)
    return test


def reason(test):
    found = re.search(r"panicked at [^\n]*\n(.*)", test["output"])
    return f": {found[1][:200]}" if found else ""
