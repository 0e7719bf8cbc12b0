"""Hosts that are network namespaces of this machine, joined by links of a given rate. Linux, as root."""
import os
import subprocess
from pathlib import Path

BRIDGE, NETWORK = "aiosbr", "10.77.0"
# Called by mpiexec as ssh is: HOST COMMAND...
SSH = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host=aios$((${1##*.} - 1)); shift
exec ip netns exec "$host" unshare --uts sh -c "hostname $host; exec $*"
"""


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def missing():
    """Why there can be none here, or None."""
    if os.name != "posix" or os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ["ip", "tc", "unshare"]:
        if subprocess.run(["sh", "-c", f"command -v {tool}"], capture_output=True).returncode != 0:
            return f"there is no {tool} (Debian: iproute2, util-linux)"
    return None


class Hosts:
    """So many hosts on one switch, each with a link of this rate, such as `1gbit`, both ways; gone when it is left."""

    def __init__(self, number, rate, folder):
        self.number, self.rate = number, rate
        self.ssh = Path(folder) / "ssh"

    def __enter__(self):
        self.remove()
        self.ssh.write_text(SSH)
        self.ssh.chmod(0o755)
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{NETWORK}.254/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        for i in range(self.number):
            self.add(i)
        return self

    def add(self, i):
        host, link = f"aios{i}", f"aiosve{i}"
        run("ip", "netns", "add", host)
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", host)
        run("ip", "link", "set", link, "master", BRIDGE, "up")
        run("ip", "-n", host, "addr", "add", f"{NETWORK}.{i + 1}/24", "dev", "eth0")
        for device in ["eth0", "lo"]:
            run("ip", "-n", host, "link", "set", device, "up")
        shape = ["root", "tbf", "rate", self.rate, "burst", "256kb", "latency", "50ms"]
        run("tc", "qdisc", "add", "dev", link, *shape)
        run("tc", "-n", host, "qdisc", "add", "dev", "eth0", *shape)

    def __exit__(self, *_):
        self.remove()

    def remove(self):
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
        for line in listed.splitlines():
            if line.startswith("aios"):
                subprocess.run(["ip", "netns", "del", line.split()[0]], capture_output=True)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)

    def launcher(self, mpiexec):
        """What starts a rank on each."""
        names = ",".join(f"{NETWORK}.{i + 1}" for i in range(self.number))
        # Namespaces share the machine's memory, which an engine finds faster than the network.
        tcp = ["-env", "UCX_TLS", "tcp,self"]
        reach = ["-launcher", "ssh", "-launcher-exec", str(self.ssh), "-localhost", f"{NETWORK}.254"]
        return [str(mpiexec), *reach, "-hosts", names, "-n", str(self.number), *tcp]

    def sent(self, i):
        """Bytes that a host has sent so far."""
        return int(Path(f"/sys/class/net/aiosve{i}/statistics/rx_bytes").read_text())
