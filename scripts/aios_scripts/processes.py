"""Running programs with a time limit, and ending them with the script. Linux and macOS."""
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

KEPT_LINES = 25
# How long a program has to end by itself once it was asked to.
PATIENCE = 5

# Programs that may have to be ended with the script, and whether there shall be no more: they run on several threads, of
# which a signal only reaches one.
LIVE, STOPPING = set(), threading.Event()


class Interrupted(BaseException):
    """Somebody wants the run to end."""


class Done:
    """What a program wrote and how it ended; `exit_code` is None if it ran out of time."""

    def __init__(self, exit_code, stdout, stderr, seconds, peak_bytes=None):
        self.exit_code, self.stdout, self.stderr, self.peak_bytes = exit_code, stdout, stderr, peak_bytes
        self.seconds = round(seconds, 2)

    def tail(self):
        # Progress lines overwrite one another with carriage returns.
        lines = (self.stdout[-20000:] + "\n" + self.stderr[-20000:]).replace("\r", "\n").splitlines()
        return "\n".join([line.rstrip() for line in lines if line.strip()][-KEPT_LINES:])

    def why(self):
        if self.exit_code is None:
            return f"took longer than {self.seconds:.0f} s"
        lines = [line.strip() for line in self.stderr.replace("\r", "\n").splitlines() if line.strip()]
        return (lines[-1] if lines else f"exit code {self.exit_code}")[:300]


def execute(command, seconds=None, env=None, cwd=None, own_group=True):
    """Run it, and end it when the time is over or the script is interrupted.

    In a process group of its own it is ended with everything it started. Without one it stays in the script's, for a script
    that is itself run by this function: who ends the one then ends the other.
    """
    start = time.monotonic()
    if STOPPING.is_set():
        return Done(None, "", "", 0)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, cwd=cwd,
            start_new_session=own_group,
        )  # fmt: skip
        LIVE.add(process)
        try:
            code, peak = wait(process, seconds)
        finally:
            end(process, own_group)
            LIVE.discard(process)
        return Done(code, text(out), text(err), time.monotonic() - start, peak)


def wait(process, seconds):
    """(exit code, largest resident size in bytes), None each when the time is over first."""
    start, pause = time.monotonic(), 0.001
    while True:
        # Popen's own wait does not say how much memory it was.
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            return process.returncode, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if seconds is not None and time.monotonic() - start >= seconds:
            return None, None
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def end(process, own_group):
    """Ask first: a training run then saves and tells what it has done."""
    send = (lambda number: os.killpg(process.pid, number)) if own_group else process.send_signal
    for number in (signal.SIGTERM, signal.SIGKILL):
        # The group is there as long as anything in it.
        with contextlib.suppress(ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
            send(number)
            process.wait(PATIENCE)
    process.poll()


def text(file):
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def text_of(command, seconds=20):
    """Standard output of a small program, or None where it is missing or fails."""
    try:
        done = execute(command, seconds)
    except OSError:
        return None
    return done.stdout.strip() if done.exit_code == 0 else None


def end_on_signals():
    """A signal that ends the script ends its programs too, and raises `Interrupted`."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def interrupt(_number, _frame):
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        STOPPING.set()
        for process in list(LIVE):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGTERM)
        raise Interrupted()

    for number in numbers:
        signal.signal(number, interrupt)


def with_threads(count):
    """The environment of a program that shall use so many threads on the CPU."""
    return {**os.environ, **dict.fromkeys(("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(count))}
