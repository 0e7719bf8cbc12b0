"""Running one of the two programs and measuring it from outside, the same way for both."""
import json
import re

from aios_scripts.machine import swap_used
from aios_scripts.processes import execute, with_threads

RESIDENT = "largest resident size of the process"
ON_DEVICE = "most bytes in use on the device at once"


class Failed(Exception):
    """A run that ended badly; the second argument is the end of what it said."""


class Late(Exception):
    """A run that was stopped because it took too long."""


def measure(command, threads, cache=None, minutes=0):
    """What a run printed as JSON lines, its peak resident bytes, its seconds, and by how much swap grew meanwhile."""
    env = with_threads(threads)
    if cache:
        env["AIOS_CACHE_DIR"] = str(cache)
    swap = swap_used()
    done = execute(command, minutes * 60 or None, env, own_group=False)
    if done.exit_code is None:
        raise Late(f"a run takes longer than {minutes:g} minutes (--run-minutes)")
    if done.exit_code:
        raise Failed(last_words(done.stderr, done.exit_code), done.stderr[-2000:])
    return dict(
        lines=[json.loads(line) for line in done.stdout.split("\n") if line.startswith("{")],
        rss_bytes=done.peak_bytes,
        seconds=round(done.seconds, 1),
        swap_grown_bytes=max(swap_used() - swap, 0),
    )


def last_words(text, code):
    """Why a program ended, in one line."""
    if code == -9:
        return "killed, as for lack of memory"
    if code < 0:
        return f"ended by signal {-code}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # PyTorch's advice may follow its exception.
    exceptions = [line for line in lines if re.match(r"([\w.]*(Error|Exception)\b|error: )", line)]
    return (exceptions or lines or [f"exit code {code}, without a word"])[-1][:500]
