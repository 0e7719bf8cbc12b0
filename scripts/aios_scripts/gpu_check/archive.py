"""The archive for a machine without Rust: the program, its tests, and all that they and the scripts read."""
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from aios_scripts.gpu_check.executables import PACK_NOTE, find_executables
from aios_scripts.gpu_check.results import now
from aios_scripts.output import say
from aios_scripts.processes import text_of
from aios_scripts.repository import ROOT, SAMPLE

SUFFIXES = (".tar.zst", ".tar.xz", ".tar.gz")
PACKED = [
    "configs/*.toml", "scripts/*", "scripts/aios_scripts/**/*.py", "tests/golden/*", "tests/data/*",
    str(SAMPLE.relative_to(ROOT)), "training_data/sample_tokenizer/*", "LICENSE-*",
]  # fmt: skip


def pack(args):
    if PACK_NOTE.is_file():
        sys.exit("this is an archive's content already; make one where the sources are")
    binary, tests, note = find_executables(args.aios, args.cargo)
    note.update(system=platform.system(), machine=platform.machine(), packed=now(), tests=sorted(tests))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "bin" / "tests").mkdir(parents=True)
        strip(binary, folder / "bin" / "aios")
        for name, path in tests.items():
            strip(path, folder / "bin" / "tests" / name)
        (folder / PACK_NOTE.name).write_text(json.dumps(note))
        add_files(folder)
        sizes = {path.name: path.stat().st_size for path in (folder / "bin").glob("**/*") if path.is_file()}
        compress(folder, args.pack)
    for name, size in sizes.items():
        say(f"{name:12} {size / 2**20:7.1f} MiB")
    print(f"{args.pack}: {args.pack.stat().st_size / 2**20:.1f} MiB")


def strip(source, target):
    shutil.copy(source, target)
    tool = shutil.which("strip")
    if not tool or subprocess.run([tool, target], stderr=subprocess.DEVNULL).returncode:
        say(f"{source.name} goes in with its symbols: no strip, or it failed")
        shutil.copy(source, target)


def add_files(folder):
    for path in [path for pattern in PACKED for path in sorted(ROOT.glob(pattern)) if path.is_file()]:
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    # A machine with nothing but a driver lacks the loader.
    loader = re.search(r"libvulkan\.so\.1 .*=> (\S+)", text_of(["/sbin/ldconfig", "-p"]) or "")
    if loader:
        (folder / "lib").mkdir()
        shutil.copy(loader[1], folder / "lib" / "libvulkan.so.1")


def compress(folder, archive):
    """With a window that reaches from one executable to the next, most of which is the same; with xz over all of them."""
    say(f"compressing into {archive}")
    if archive.name.endswith(".gz"):
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(folder, ".")
        return
    if archive.name.endswith(".xz"):
        # Not every Python has it, and who unpacks does without.
        import lzma

        filters = [dict(id=lzma.FILTER_LZMA2, preset=6, dict_size=256 << 20)]
        with lzma.open(archive, "wb", filters=filters) as out, tarfile.open(fileobj=out, mode="w|") as tar:
            tar.add(folder, ".")
        return
    if not shutil.which("zstd"):
        sys.exit("there is no zstd here; name a .tar.xz")
    with open(archive, "wb") as out:
        # 2^27 is the largest window that unpacks without a flag.
        zstd = subprocess.Popen(["zstd", "-19", "--long=27", "-T0", "-q", "-c"], stdin=subprocess.PIPE, stdout=out)
        with tarfile.open(fileobj=zstd.stdin, mode="w|") as tar:
            tar.add(folder, ".")
        zstd.stdin.close()
        if zstd.wait():
            sys.exit("zstd failed; name a .tar.xz")
