"""Where things are in this repository, or in an archive of scripts/gpu_check, and which version they are."""
import os
import shutil
import sys
from pathlib import Path

from aios_scripts.output import refuse
from aios_scripts.processes import text_of

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLE = ROOT / "training_data" / "curated_datasets" / "test_sample.txt"


def release_build():
    """Where cargo puts it, whether it is there or not."""
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "aios"


def aios_to_check():
    """The release build, and nothing else, since it is what a check is about."""
    built = release_build()
    return built if built.is_file() else sys.exit(f"{built} is no file; run: cargo build --release")


def find_aios():
    """The release build, else the program on the PATH; None without either."""
    built = release_build()
    found = built if built.is_file() else shutil.which("aios")
    return Path(found).resolve() if found else None


def aios_for(given):
    """The program that --aios names, else the one that is found."""
    if given and not given.is_file():
        refuse(f"--aios {given} is no file")
    found = given or find_aios() or refuse("no aios binary; run: cargo build --release, or name one with --aios")
    return str(found.resolve())


def commit():
    """(the checkout's commit, or None where there is none; whether files differ from it)"""
    changes = text_of(["git", "-C", ROOT, "status", "--porcelain", "--untracked-files=no"])
    return text_of(["git", "-C", ROOT, "rev-parse", "HEAD"]), bool(changes)
