"""The program and its tests: from an archive, from cargo, or the program alone from wherever it is."""
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from aios_scripts.output import say
from aios_scripts.processes import text_of
from aios_scripts.repository import ROOT, commit, find_aios

# Lies at the root of an unpacked archive.
PACK_NOTE = ROOT / "pack.json"
# Executables with tests that run on a GPU, and the part of their names that says so. The unit tests with `cuda` in their
# names look at texts, which needs no GPU.
TESTS = {"all": "on_{kind}", "tensor": "on_wgpu"}


def find_executables(given, cargo_flags):
    """(aios, {name of a test executable: path}, note for the results)"""
    if PACK_NOTE.is_file():
        tests = {path.name: path for path in sorted((ROOT / "bin" / "tests").iterdir())}
        return given or ROOT / "bin" / "aios", tests, json.loads(PACK_NOTE.read_text())
    cargo = shutil.which("cargo")
    if cargo:
        binary, tests = build(cargo, cargo_flags)
        return given or binary, tests, source_note()
    binary = given or find_aios()
    if not binary:
        sys.exit("no aios and no cargo here; make an archive with --pack on a machine that has cargo, and unpack it here")
    return binary, {}, source_note()


def build(cargo, flags):
    """The program and the test executables, built where they are not up to date."""
    chosen = ["-p", "aios", "-p", "aios-tensor", "--lib", "--test", "all"]
    command = [cargo, "test", "--no-run", "--release", "--locked", *chosen, *flags]
    say("building the program and its tests")
    done = subprocess.run([*command, "--message-format=json"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} failed with {done.returncode}; see above")
    built = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    executables = {name_of(artifact): Path(artifact["executable"]) for artifact in built if artifact.get("executable")}
    binary = executables.pop("aios", None)
    if not binary:
        sys.exit(f"{shlex.join(command)} built no aios")
    return binary, {name: path for name, path in executables.items() if name in TESTS}


def name_of(artifact):
    """`aios`, or a name in `TESTS`, or something else."""
    target, is_test = artifact["target"], artifact["profile"]["test"]
    kind, name = target["kind"][0], target["name"]
    if kind == "lib" and name == "aios_tensor":
        return "tensor"
    return name if (kind, is_test) in (("bin", False), ("test", True)) else f"{kind} {name}"


def source_note():
    head, changed = commit()
    return dict(commit=head, changed=changed, rustc=text_of(["rustc", "--version"]))
