"""The devices that aios sees, with help for what the system does not find by itself, and which of them to check."""
import glob
import hashlib
import json
import os
import sys
from pathlib import Path

from aios_scripts.processes import execute, text_of
from aios_scripts.pytorch import pythons
from aios_scripts.repository import ROOT


def environment(scratch):
    """For every program: caches of its own, a folder that Mesa asks for, nothing left over from other settings."""
    env = {**os.environ, "AIOS_CACHE_DIR": str(scratch / "cache"), "HF_HUB_OFFLINE": "1"}
    env.pop("AIOS_LOG", None)
    env.setdefault("XDG_RUNTIME_DIR", "/tmp")
    return env


def look_for_devices(binary, env):
    """(report, environment in which it holds): finds CUDA's compiler and a Vulkan driver where the system does not."""
    report = devices(binary, env)
    if any(a["kind"] == "cuda" for a in report["adapters"]) and not usable(report, "cuda"):
        for tried in toolkits(env):
            found = devices(binary, tried)
            if usable(found, "cuda"):
                report, env = found, tried
                break
    if all(is_toy(a) for a in usable(report, "wgpu")):
        for tried in vulkan_drivers(env):
            found = devices(binary, tried)
            if len(usable(found, "wgpu")) > len(usable(report, "wgpu")):
                return found, tried
    return report, env


def devices(binary, env):
    done = execute([binary, "devices", "--json"], 60, env)
    if done.exit_code != 0:
        sys.exit(f"{binary} devices does not run here: {done.why()}\n{done.tail()}")
    return json.loads(done.stdout)


def usable(report, kind):
    return [a for a in report["adapters"] if a["kind"] == kind and not a["problem"]]


def is_toy(adapter):
    """Whether it only stands in for a GPU."""
    return adapter["class"] in ("software", "host")


def toolkits(env):
    """Environments with NVRTC and CUDA's headers from a toolkit, or from what pip brought along with PyTorch."""
    roots = sorted(glob.glob("/usr/local/cuda*") + glob.glob("/opt/cuda*"), reverse=True)
    for python in pythons():
        sites = text_of([python, "-c", "import sys; print('\\n'.join(p for p in sys.path if p.endswith('-packages')))"])
        for site in (sites or "").splitlines():
            roots += glob.glob(f"{site}/nvidia/cu*") + glob.glob(f"{site}/nvidia/cuda_nvrtc")
    for root in list(dict.fromkeys(roots))[:8]:
        compilers = [p for sub in ("lib64", "lib") for p in glob.glob(f"{root}/{sub}/libnvrtc.so*") if "alt" not in p]
        if not compilers:
            continue
        tried = add_to_path(env, "LD_LIBRARY_PATH", os.path.dirname(compilers[0]))
        yield {**tried, "CUDA_PATH": headers(root, Path(env["AIOS_CACHE_DIR"]))}


def headers(root, cache):
    """A folder whose include folder has CUDA's headers: the toolkit's, or those of pip's packages put together."""
    if os.path.exists(f"{root}/include/crt/mma.h"):
        return root
    together = cache / "cuda-headers" / hashlib.sha1(root.encode()).hexdigest()[:8]
    include = together / "include"
    include.mkdir(parents=True, exist_ok=True)
    for package in (".", "../cuda_runtime", "../cuda_nvcc", "../cuda_cccl"):
        for entry in Path(root, package, "include").resolve().glob("*"):
            if not (include / entry.name).exists():
                (include / entry.name).symlink_to(entry)
    return str(together)


def vulkan_drivers(env):
    """Environments with the archive's loader, and with a driver that lies where no loader looks."""
    loader = ROOT / "lib"
    with_loader = add_to_path(env, "LD_LIBRARY_PATH", loader) if loader.is_dir() else env
    if with_loader is not env:
        yield with_loader
    driver = "/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json"
    if os.path.exists(driver):
        yield {**env, "VK_DRIVER_FILES": driver}
        yield {**with_loader, "VK_DRIVER_FILES": driver}


def add_to_path(env, name, folder):
    return {**env, name: os.pathsep.join(filter(None, [str(folder), env.get(name)]))}


def choose(report, args):
    """Adapters to check, the best kind first."""
    if args.device == "cpu":
        return usable(report, "cpu")
    kind, _, index = args.device.partition(":")
    chosen = []
    for each in ["cuda", "wgpu"] if kind == "auto" else [kind]:
        found = [a for a in usable(report, each) if index in ("", str(a["index"]))]
        real = [a for a in found if not is_toy(a)]
        order = ["discrete", "integrated", "virtual", "other"]
        real.sort(key=lambda a: order.index(a["class"]) if a["class"] in order else len(order))
        chosen += (real or (found if args.allow_software else []))[:1]
    return chosen


def no_gpu(report, args):
    lines = [f"no GPU for --device {args.device}"]
    for adapter in report["adapters"]:
        if adapter["kind"] != "cpu":
            what = adapter["problem"] or ("a software renderer" if adapter["class"] == "software" else "usable")
            lines.append(f"  {adapter['kind']}:{adapter['index']} {adapter['name']}: {what}")
    lines += [f"  no {m['kind']}: {m['reason']}; {m['remedy']}" for m in report["missing"]]
    lines.append("to try the script without one: --allow-software or --device cpu, both with --quick")
    return "\n".join(lines)
