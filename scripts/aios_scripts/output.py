"""What scripts tell people, and files that are written whole or not at all."""
import os
import sys
from pathlib import Path


def say(text):
    """To standard error: standard output is for results."""
    print(text, file=sys.stderr, flush=True)


def refuse(message):
    say(f"{Path(sys.argv[0]).name}: {message}")
    sys.exit(2)


def write(path, text):
    aside = path.with_name(path.name + ".new")
    aside.write_text(text)
    os.replace(aside, path)
