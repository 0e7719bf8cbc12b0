"""What this machine is made of."""
import os
import platform
import re
from pathlib import Path

from aios_scripts.processes import text_of

VECTORS = ["avx", "avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve", "bf16"]


def hardware():
    cpu = processor()
    return dict(
        cpu=cpu.get("model name") or text_of(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.processor(),
        cpu_family=cpu.get("cpu family"),
        cpu_model=cpu.get("model"),
        vectors=cpu_vectors(),
        cores=os.cpu_count(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=platform.platform(),
    )


def processor():
    """Names and values of the first processor in /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = [line.partition(":") for line in text.split("\n\n")[0].splitlines()]
    return {name.strip(): value.strip() for name, _, value in lines}


def cpu_vectors():
    """Which vector instructions there are; none where that cannot be told."""
    cpu = processor()
    return [name for name in VECTORS if name in (cpu.get("flags") or cpu.get("Features") or "").split()]


def swap_used():
    """Bytes of swap in use by all programs; 0 where that cannot be told."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return 0
    found = dict(re.findall(r"^(Swap\w+):\s+(\d+) kB", text, re.MULTILINE))
    return (int(found.get("SwapTotal", 0)) - int(found.get("SwapFree", 0))) * 1024


def nvidia_gpus():
    """What the driver's own tool says of each of NVIDIA's GPUs."""
    query = "name,driver_version,memory.total,compute_cap,power.limit,clocks.max.sm,clocks.max.mem"
    rows = text_of(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"])
    return [dict(zip(query.split(","), row.split(", "))) for row in (rows or "").splitlines()]
