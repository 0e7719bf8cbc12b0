"""Pythons that have PyTorch, and an environment where it is installed if there is none."""
import os
import shutil
import sys
from pathlib import Path

from aios_scripts.environments import imports, install, interpreter
from aios_scripts.output import refuse, say

VENV = Path.home() / ".cache" / "aios" / "torch-venv"


def pythons(given=None):
    """Those that may have it."""
    if given:
        return [given]
    found = [sys.executable, shutil.which("python3"), shutil.which("python"), interpreter(VENV)]
    return list(dict.fromkeys(str(path) for path in found if path and os.path.exists(path)))


def python_with_torch(given, optional=()):
    """The one that was given, else our own environment's, where `optional` packages are tried for too."""
    if given:
        if not shutil.which(str(given)):
            refuse(f"--python {given} is no program")
        if not imports(given, "torch, numpy"):
            refuse(f"--python {given} has no torch or no numpy; run: {given} -m pip install torch numpy")
        return str(given)
    python = interpreter(VENV)
    if not imports(python, "torch, numpy"):
        say(f"installing PyTorch into {VENV}, once")
        if not install(VENV, "torch", "numpy"):
            refuse("PyTorch could not be installed; name a Python that has it with --python")
    for package in optional:
        if not imports(python, package):
            # Whether it is there after this is found out by using it.
            install(VENV, package)
    return str(python)
