"""MPICH from PyPI."""
import os
from pathlib import Path

from aios_scripts.environments import install

VENV = Path(os.environ.get("AIOS_MPICH_VENV", Path.home() / ".cache/aios/mpich-venv"))
# The first with the standard's own binary interface, which all later ones have.
PACKAGE = "mpich==5.0.2"


def mpiexec():
    """Its launcher; None where it cannot be installed."""
    found = VENV / "bin" / "mpiexec"
    if found.is_file() or (install(VENV, PACKAGE) and found.is_file()):
        return found
    return None
