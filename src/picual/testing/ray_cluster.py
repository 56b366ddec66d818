"""A real Ray cluster of several nodes on this machine: each has its own address, processes and cache."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

HEAD = "127.0.0.1"
STORE_BYTES = 80_000_000  # of Ray's own object store: nothing of ours goes through it


class LocalRay:
    """A head that runs no jobs and nodes that do, started and killed by Ray's own command line.

    Args:
        root: Folder for Ray's own files and for the caches of the nodes.
        cores: Of each node.
        token: What whoever connects must know; left out, nobody is asked.
    """

    def __init__(self, root: Path, *, cores: int = 2, token: str | None = None) -> None:
        self.root, self.cores = root, cores
        self.access = {"RAY_AUTH_MODE": "disabled"}
        if token is not None:
            self.access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        self._port, self._client_port = _free_port(), _free_port()
        self._ray = [sys.executable, "-m", "ray.scripts.scripts"]
        self._files = Path("/tmp") / f"picual-ray-{self._port}"  # short: sockets have room for 107 characters
        ports = (f"--port={self._port}", f"--ray-client-server-port={self._client_port}")
        self._start(HEAD, "--head", *ports, "--num-cpus=0", f"--temp-dir={self._files}")

    @property
    def address(self) -> str:
        """Address that a recipe names."""
        return f"{HEAD}:{self._port}"

    @property
    def client_address(self) -> str:
        """Address for a machine that is no node itself."""
        return f"ray://{HEAD}:{self._client_port}"

    def add(self, number: int, **variables: str) -> Path:
        """Start node ``number`` (from 2) and return its cache folder; ``variables`` are of its environment."""
        cache = self.root / f"cache-{number}"
        self._start(
            f"127.0.0.{number}", f"--address={self.address}", f"--num-cpus={self.cores}",
            PICUAL_NODE_CACHE=str(cache), **variables,
        )  # fmt: skip
        return cache

    def kill(self, number: int) -> None:
        """Kill a node and everything on it, as a power cut would."""
        for raylet in self._raylets(f"127.0.0.{number}"):
            for process in [raylet, *raylet.children(recursive=True)]:
                _kill(process)

    def stop(self) -> None:
        """Kill the whole cluster."""
        ours = [
            one
            for one in psutil.process_iter(["cmdline"])
            if str(self._port) in " ".join(one.info["cmdline"] or [])
        ]
        for process in [one for root in ours for one in (root, *_children(root))]:
            if process.pid != os.getpid():
                _kill(process)
        subprocess.run(["rm", "-rf", str(self._files)], check=False)

    def _start(self, ip: str, *arguments: str, **variables: str) -> None:
        environment = {
            **os.environ, "RAY_USAGE_STATS_ENABLED": "0", **self.access,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]), **variables,
        }  # fmt: skip
        command = [
            *self._ray,
            "start",
            f"--node-ip-address={ip}",
            f"--object-store-memory={STORE_BYTES}",
            *arguments,
        ]
        done = subprocess.run(
            [*command, "--disable-usage-stats", *(["--include-dashboard=false"] if "--head" in arguments else [])],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(done.stderr[-2000:])

    def _raylets(self, ip: str) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["name", "cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if (
                "raylet" in (process.info["name"] or "")
                and f"node_ip_address={ip}" in line
                and str(self._port) in line
            ):
                found.append(process)
        return found


def wait_for(path: Path, seconds: float = 60.0) -> None:
    """Wait until a file or folder is there.

    Raises:
        TimeoutError: It did not come.
    """
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(str(path))
        time.sleep(0.05)


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HEAD, 0))
        return int(probe.getsockname()[1])
