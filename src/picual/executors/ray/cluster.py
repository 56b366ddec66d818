"""A connection to a Ray cluster, shared by all executors of this process, and what its nodes have."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picual import _lazy
from picual.errors import EnvironmentFault, JobLost, NotEnough
from picual.executors.ray import on_node

LOOK_SECONDS = 60.0
LISTEN_SECONDS = 5.0
HEAD_PAUSE, HEAD_SECONDS = 5.0, 30.0  # between two looks at the head; it may be away for so long
_NOBODY = "`ray status` on a node shows its address; `ray start --head` begins a cluster"
_lock = threading.Lock()
_connected: dict[str, Cluster] = {}


@dataclass(frozen=True)
class Node:
    """One machine of a cluster."""

    id: str
    address: str
    cores: int
    memory: int  # bytes that Ray lends out there
    gpus: int


@dataclass(frozen=True)
class Need:
    """What one job asks for."""

    cores: int
    memory: int = 0  # bytes; 0: not known
    gpus: int = 0
    alone: bool = False  # a whole machine, as it is timed


class Cluster:
    """The cluster at one address. Made by ``connect``."""

    def __init__(self, address: str, *, head: str = "") -> None:
        self.address = address
        self._seen = set[tuple[str, str]]()
        self._looked = self._heard = time.monotonic()
        self._head = head  # where it listens

    def nodes(self) -> list[Node]:
        """Return the machines that are alive, the largest first."""
        ray = _ray()
        found = [
            Node(
                one["NodeID"], one["NodeManagerAddress"], int(one["Resources"].get("CPU", 0)),
                int(one["Resources"].get("memory", 0)), int(one["Resources"].get("GPU", 0)),
            )
            for one in ray.nodes()
            if one["Alive"]
        ]  # fmt: skip
        return sorted(found, key=lambda node: (-node.cores, node.id))

    def options(self, need: Need) -> dict[str, Any]:
        """Return the resources of a task as Ray takes them.

        Raises:
            NotEnough: No machine of the cluster could ever run it: Ray would wait for one for ever.
        """
        fitting = [
            node for node in self.nodes()
            if node.cores >= need.cores and node.memory >= need.memory and node.gpus >= need.gpus
        ]  # fmt: skip
        if not fitting:
            raise NotEnough(
                f"no node of the Ray cluster has {_words(need)}; {self._have()}",
                where=self.address,
                hint="add such a node, or set `threads` in the recipe to what one has",
            )
        cores = fitting[0].cores if need.alone else need.cores  # all of the largest: nobody else fits beside it
        options: dict[str, Any] = {"num_cpus": cores, "num_gpus": need.gpus}
        return options | ({"memory": need.memory} if need.memory else {})

    def room(self, need: Need) -> int:
        """Return how many such jobs the cluster runs at a time."""
        return sum(
            min(node.cores // max(1, need.cores), node.memory // need.memory if need.memory else node.cores)
            for node in self.nodes()
        )

    def require_share(self, share: Path) -> None:
        """Raise unless every node sees the share and runs a Python of this one's minor version.

        A node that goes away meanwhile is no matter: nothing is sent there.

        Raises:
            EnvironmentFault: Which node does not, or does not answer.
        """
        token = f".seen-{secrets.token_hex(8)}"
        try:
            share.mkdir(parents=True, exist_ok=True)
            (share / token).touch()
        except OSError as error:
            raise EnvironmentFault(
                f"this machine cannot write to the folder that the nodes share with it ({error.strerror})",
                where=str(share), hint="give one that it and every node can write to: `share: DIR` under the host",
            ) from error  # fmt: skip
        try:
            new = [node for node in self.nodes() if (node.id, str(share)) not in self._seen]
            for node, found in look_at_each(new, share, token).items():
                require_fit(node.address, found, share)
                self._seen.add((node.id, str(share)))
        finally:
            (share / token).unlink(missing_ok=True)

    def require_head(self) -> None:
        """Raise if the head has not answered for a while: Ray would end this very process a minute later.

        Raises:
            JobLost: Nobody listens there any more.
        """
        now = time.monotonic()
        if now - self._looked < HEAD_PAUSE:
            return
        self._looked = now
        if _place_of(self._head) is None or _listens(self._head):
            self._heard = now
        elif now - self._heard > HEAD_SECONDS:
            raise JobLost(
                f"the head of the Ray cluster has not answered for {now - self._heard:.0f} s", where=self._head,
                hint="start it again, then run the same command: it continues from the last checkpoint",
            )  # fmt: skip

    def _have(self) -> str:
        if not (nodes := self.nodes()):
            return "it has no nodes"
        most = nodes[0]
        return f"the largest has {most.cores} cores, {most.memory / 1e9:.1f} GB and {most.gpus} GPUs"


def require_fit(address: str, found: Mapping[str, str], share: Path) -> None:
    """Raise unless a node is one that jobs can run on.

    Args:
        address: Of the node.
        found: What ``on_node.look`` says there.
        share: Of this machine and the nodes.

    Raises:
        EnvironmentFault: It does not see the share, or runs another Python.
    """
    ours = ".".join(map(str, sys.version_info[:2]))
    if not found["sees"]:
        raise EnvironmentFault(
            f"the Ray node {address} does not see the folder that it shares with this machine",
            where=str(share),
            hint="give one that every node can write to: `share: DIR` under the host",
        )
    if found["python"].split(".")[:2] != ours.split("."):
        raise EnvironmentFault(
            f"the Ray node {address} runs Python {found['python']} and this machine {ours}",
            where=address,
            hint=f"start it with Python {ours}: Ray needs the same on all",
        )


def connect(address: str) -> Cluster:
    """Return the cluster at an address, connected once in this process.

    Raises:
        EnvironmentFault: Nobody answers there, or the token is not the cluster's.
    """
    with _lock:
        if address not in _connected:
            _start(address)
            _connected[address] = Cluster(address, head=_head_of(address))
        return _connected[address]


def _head_of(address: str) -> str:
    """Return where the head listens: `auto` finds it by itself."""
    return address if _place_of(address) is not None else str(_ray().get_runtime_context().gcs_address)


def disconnect() -> None:
    """Leave the cluster; its tasks that are under way end."""
    with _lock:
        if _connected:
            _connected.clear()
            _ray().shutdown()


def _start(address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = _ray()
    if _place_of(address) is not None and not _listens(address):  # Ray itself would try again without end
        raise EnvironmentFault(f"no Ray cluster answers at `{address}`", where=address, hint=_NOBODY)
    from ray import cloudpickle
    from ray.exceptions import RayError

    cloudpickle.register_pickle_by_value(on_node)  # type: ignore[no-untyped-call]  # Ray ships it untyped
    try:
        with _own_handler(signal.SIGTERM):
            ray.init(address=address, namespace="picual", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RayError, RuntimeError, ValueError, OSError) as error:
        told = next(iter(str(error).strip().splitlines()), type(error).__name__)
        whole = " ".join(f"{error} {error.__cause__ or ''}".split())
        if "mismatch" in whole.lower():
            raise EnvironmentFault(
                f"the Ray cluster at `{address}` has other versions than this machine: {whole}", where=address,
                hint="`ray --version` on a node says which Ray; here: `pip install ray==` that one",
            ) from error  # fmt: skip
        # Ray says why on stderr alone: to the program a refusal looks as if nobody were there.
        refused = "token" in whole.lower() or (isinstance(error, ConnectionError) and _listens(address))
        raise EnvironmentFault(
            f"the Ray cluster at `{address}` answers, and refuses this machine or its token: {told}" if refused
            else f"no Ray cluster answers at `{address}`: {told}",
            where=address,
            hint="export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=..., as on the cluster" if refused else _NOBODY,
        ) from error  # fmt: skip


@contextlib.contextmanager
def _own_handler(number: signal.Signals) -> Iterator[None]:
    """Keep how this process takes a signal, whatever a library sets meanwhile."""
    before = signal.getsignal(number)
    yield
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(number, before)


def _place_of(address: str) -> tuple[str, int] | None:
    """Return host and port of ``HOST:PORT`` or ``ray://HOST:PORT``; None for another form, such as ``auto``."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return (host, int(port)) if host and port.isdecimal() else None


def _listens(address: str) -> bool:
    """Say whether anybody takes connections at ``HOST:PORT`` or ``ray://HOST:PORT``."""
    place = _place_of(address)
    if place is None:
        return False
    try:
        with socket.create_connection(place, timeout=LISTEN_SECONDS):
            return True
    except OSError:
        return False


def look_at_each(nodes: Sequence[Node], share: Path, token: str) -> dict[Node, dict[str, str]]:
    """Return what each node says of itself; one that died, which Ray learns seconds later, is left out.

    Raises:
        EnvironmentFault: One is there and does not answer, or cannot run a Python.
    """
    from ray.exceptions import GetTimeoutError, NodeDiedError, TaskUnschedulableError, WorkerCrashedError

    ray = _ray()
    asked = {node: _look(ray, node, share, token) for node in nodes}
    found = {}
    for node, answer in asked.items():
        try:
            found[node] = ray.get(answer, timeout=LOOK_SECONDS)
        except (NodeDiedError, TaskUnschedulableError):
            continue
        except (GetTimeoutError, WorkerCrashedError) as error:
            how = f"has not answered for {LOOK_SECONDS:.0f} s"
            if isinstance(error, WorkerCrashedError):
                how = "is there, but the process that Ray starts on it dies"
            raise EnvironmentFault(
                f"the Ray node {node.address} {how}", where=node.address,
                hint="`ray status` shows what it does; `ray stop` there takes it out of the cluster",
            ) from error  # fmt: skip
    return found


def _look(ray: Any, node: Node, share: Path, token: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node.id, soft=False)
    task = ray.remote(on_node.look).options(num_cpus=0, scheduling_strategy=there)
    return task.remote(str(share), token)


def _words(need: Need) -> str:
    said: Sequence[str] = [
        f"{need.cores} cores",
        *([f"{need.memory / 1e9:.1f} GB of memory"] if need.memory else []),
        *([f"{need.gpus} GPUs"] if need.gpus else []),
    ]
    return " and ".join(said)


def _ray() -> Any:
    return _lazy.need("ray", extra="ray", by="host type ray")
