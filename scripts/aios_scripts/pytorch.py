"""Pythons that have PyTorch, and an environment where it is installed if there is none."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

from aios_scripts.output import refuse, say

VENV = Path.home() / ".cache" / "aios" / "torch-venv"


def pythons(given=None):
    """Those that may have it."""
    if given:
        return [given]
    found = [sys.executable, shutil.which("python3"), shutil.which("python"), VENV / "bin" / "python"]
    return list(dict.fromkeys(str(path) for path in found if path and os.path.exists(path)))


def python_with_torch(given, optional=()):
    """The one that was given, else our own environment's, where `optional` packages are tried for too."""
    if given:
        if not shutil.which(str(given)):
            refuse(f"--python {given} is no program")
        if not imports(given, "torch, numpy"):
            refuse(f"--python {given} has no torch or no numpy; run: {given} -m pip install torch numpy")
        return str(given)
    python = VENV / "bin" / "python"
    if not python.exists() or not imports(python, "torch, numpy"):
        say(f"installing PyTorch into {VENV}, once")
        made = subprocess.run([sys.executable, "-m", "venv", VENV]).returncode == 0
        if not made or install(python, "torch", "numpy"):
            refuse("PyTorch could not be installed; name a Python that has it with --python")
    for package in optional:
        if not imports(python, package):
            # Whether it is there after this is found out by using it.
            install(python, package)
    return str(python)


def imports(python, modules):
    return subprocess.run([python, "-c", f"import {modules}"], capture_output=True).returncode == 0


def install(python, *packages):
    """pip's exit code"""
    return subprocess.run([python, "-m", "pip", "install", "--quiet", *packages]).returncode
