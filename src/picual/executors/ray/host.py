"""A Ray cluster: each job is a task, run in a process of its own on a node that has room for it.

Models do not travel through Ray: driver and nodes share a folder, and every node keeps what it has fetched.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from picual import _lazy
from picual.errors import EnvironmentFault, Interrupted, JobLost
from picual.executors import parcel
from picual.executors.base import Executor, OnEvent
from picual.executors.events import Tail
from picual.executors.host import Host, Surroundings
from picual.executors.interpreter import own_code
from picual.executors.job import Job, Result
from picual.executors.ray import on_node
from picual.executors.ray.cluster import Cluster, Need, connect, disconnect
from picual.executors.share import FolderShare
from picual.hardware import Machine
from picual.space import param

RETRIES = 3  # a node or its worker may die so often in one job
WAIT_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class RayCluster(Host):
    """Where a Ray cluster is, and what its nodes share with this machine."""

    kind: ClassVar[str] = "ray"
    imports: ClassVar[tuple[str, ...]] = ("ray",)
    extra: ClassVar[str] = "ray"
    elsewhere: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    address: str = param("auto", help="`HOST:PORT`, `ray://HOST:PORT`, or `auto`: the cluster of this machine.")
    share: str | None = param(
        None, help="Folder that this machine and all nodes see; left out: one in the store.", role="path"
    )
    cache: str | None = param(None, help="Folder of each node for what it fetched; left out: the user's cache.")
    device: str | None = param(None, help="Kind of machine of the nodes; left out: this machine's.")
    cores: int | None = param(None, help="Cores of a job; left out: as many as this machine has.")
    gpus: int = param(0, help="GPUs of a job.")
    parallel: int | None = param(None, help="Candidates of a search at a time; left out: as the nodes have room.")

    def device_class(self, machine: Machine) -> str:
        """Return the nodes' kind of machine."""
        return self.device or machine.device_class

    def threads_of(self, machine: Machine) -> int:
        """Return the cores of a job."""
        return self.cores or machine.cores

    def at_once(self, cores: int, memory: int) -> int:
        """Return how many such jobs the cluster has room for."""
        return self.parallel or max(1, connect(self.address).room(Need(cores, memory, self.gpus)))

    def executor(self, around: Surroundings) -> Executor:
        """Return an executor on the cluster.

        Raises:
            EnvironmentFault: Nobody answers, or a node does not see the share.
        """
        share = Path(self.share) if self.share is not None else around.state / "share"
        cluster = connect(self.address)
        cluster.require_share(share)
        return RayExecutor(self, cluster, share, around)


class RayExecutor:
    """Runs each job as a task of a cluster."""

    def __init__(self, host: RayCluster, cluster: Cluster, share: Path, around: Surroundings) -> None:
        self._host, self._cluster, self._around = host, cluster, around
        self._share = FolderShare(share)

    def run(self, folder: Path, on_event: OnEvent) -> Result:
        """Send the job, wait for it, and bring back what it made.

        Ray does a task again whose node or worker died. Where a process of ours was killed there, Ray saw its task
        end well: the job is sent anew, as often.
        """
        job = Job.read(folder)
        options = self._cluster.options(Need(job.threads, job.memory, self._host.gpus, job.alone))
        name = parcel.send(self._share, folder, self._around.files)
        code = self._code()
        for left in reversed(range(RETRIES + 1)):
            if self._is_done(name):
                break
            self._share.remove(f"jobs/{name}/result.json")
            ended = self._sent(job, name, code, options, on_event)
            if (left == 0 or ended >= 0) and parcel.result_of(self._share, name) is None:
                raise JobLost(
                    f"the node's process of `{job.label}` {on_node.name_of(ended)}",
                    where=str(self._share.root / "nodes.txt"),
                    hint="run the same command again: it continues from the last checkpoint",
                )
        return self._brought(folder)

    def _is_done(self, name: str) -> bool:
        """Say whether a job has ended by itself, well or not: one whose worker was killed has not."""
        found = parcel.result_of(self._share, name)
        return found is not None and (found.error is None or found.error["error"] != JobLost.__name__)

    def _code(self) -> Path:
        try:
            return own_code(self._share.root)
        except OSError as error:
            raise EnvironmentFault(
                f"Picual's code cannot be put where the nodes read it ({error.strerror})",
                where=str(self._share.root), hint=f"df -h {shlex.quote(str(self._share.root))}",
            ) from error  # fmt: skip

    def _sent(self, job: Job, name: str, code: Path, options: Mapping[str, Any], on_event: OnEvent) -> int:
        """Do a job that is in the share; return how its process there ended."""
        ray = _lazy.need("ray", extra="ray", by="host type ray")
        events = self._share.root / "jobs" / name / "events.jsonl"
        tail = Tail(events, events.stat().st_size if events.exists() else 0)
        task = ray.remote(on_node.work).options(max_retries=RETRIES, **options)
        reference = task.remote(str(self._share.root), name, str(code), self._host.cache, job.offline)
        try:
            self._wait(ray, reference, tail, on_event)
            ended = self._ended(ray, reference, job)
        except KeyboardInterrupt:
            with contextlib.suppress(Exception):  # the cluster may be gone: the interruption is what counts
                ray.cancel(reference, force=True)
            raise Interrupted(f"interrupted in `{job.label}`", hint="the same command continues it") from None
        tail.hand_over(on_event)
        return ended

    def _brought(self, folder: Path) -> Result:
        result = parcel.fetch(self._share, folder.name, folder)
        if result.error is None:
            parcel.forget(self._share, folder.name)
            return result
        log = folder / "log.txt"  # fetched, too: where it lay on the node nobody here can look
        is_there = str(result.error.get("where", "")).endswith(log.name)
        return replace(result, error={**result.error, "where": str(log)}) if is_there else result

    def close(self) -> None:
        """Leave the cluster."""
        disconnect()

    def _wait(self, ray: Any, reference: Any, tail: Tail, on_event: OnEvent) -> None:
        while True:
            self._cluster.require_head()
            ready, _ = ray.wait([reference], timeout=WAIT_SECONDS)
            tail.hand_over(on_event)
            if ready:
                return

    def _ended(self, ray: Any, reference: Any, job: Job) -> int:
        from ray.exceptions import RayError

        try:
            return int(ray.get(reference))
        except RayError as error:
            told = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise JobLost(
                f"the nodes that ran `{job.label}` were lost, {RETRIES + 1} in all: {told}",
                where=self._host.address,
                hint="run the same command again: it continues from the last checkpoint",
            ) from error
