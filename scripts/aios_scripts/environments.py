"""Virtual environments for what comes from PyPI, made on first use."""
import os
import subprocess
import sys

from aios_scripts.output import say


def interpreter(environment):
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def imports(python, modules):
    """Whether a Python is there and has them."""
    try:
        return subprocess.run([python, "-c", f"import {modules}"], capture_output=True).returncode == 0
    except OSError:
        return False


def install(environment, *packages, seconds=None):
    """Whether the packages are in it now; makes the environment if it is not there."""
    python = interpreter(environment)
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        return subprocess.run(command, stdout=sys.stderr, timeout=seconds).returncode == 0
    except (OSError, subprocess.SubprocessError) as cause:
        say(f"cannot install {' '.join(packages)}: {cause}")
        return False
