"""A run: what its stages need to know, and how they end.

A stage is a function that takes a `Run` and returns (raw result, text for the summary, exit code).
"""
import json
import shlex

from aios_scripts.gpu_check.adapters import is_toy
from aios_scripts.gpu_check.sizes import SIZES
from aios_scripts.processes import execute
from aios_scripts.repository import ROOT


class Failed(Exception):
    """A stage failed; `result` and `text` are what it found until then."""

    def __init__(self, why, result=None, text="", exit_code=None, output=""):
        super().__init__(why)
        self.result, self.text, self.exit_code, self.output = result, text, exit_code, output


class NotRun(Exception):
    """A stage that this machine cannot run, and why."""


class Run:
    def __init__(self, args, binary, tests, env, scratch, size, record):
        self.args, self.binary, self.tests, self.env, self.scratch = args, binary, tests, env, scratch
        self.size, self.record = size, record
        self.begin(None, None)

    def begin(self, name, adapter):
        """The next stage; `so_far` is what it has found if it is interrupted."""
        self.name, self.adapter, self.seconds, self.commands, self.so_far = name, adapter, 0, [], []

    @property
    def kind(self):
        return self.adapter["kind"]

    @property
    def device(self):
        return "cpu" if self.kind == "cpu" else f"{self.kind}:{self.adapter['index']}"

    def is_toy(self):
        return is_toy(self.adapter)

    def sizes(self):
        return SIZES[self.size].get(self.name, "").format(root=ROOT).split()

    def chart(self):
        """Where a chart goes; toys leave none behind."""
        path = self.record.with_name(f"{self.record.name}-{self.kind}-{self.name}.svg")
        return self.scratch / path.name if self.is_toy() else path

    def aios(self, *words):
        """Run the program in the scratch folder."""
        done = execute([self.binary, *words], self.seconds, self.env, self.scratch)
        self.note("aios", *words)
        return done

    def note(self, *words):
        """Keep a command as one would type it in the repository."""
        line = shlex.join(map(str, words))
        self.commands.append(line.replace(f"{self.scratch}/", "").replace(f"{ROOT}/", ""))


def parsed(done):
    """A program's output, or None if it is not JSON."""
    try:
        return json.loads(done.stdout)
    except ValueError:
        return None


def finish(done, result, text):
    """What a stage returns that is one program."""
    if done.exit_code != 0 or result is None:
        why = done.why() if done.exit_code != 0 else "its output is no JSON"
        raise Failed(why, result, text, done.exit_code, done.tail())
    return result, text, done.exit_code
