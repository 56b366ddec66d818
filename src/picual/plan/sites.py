"""The hosts of a plan, each with what of it is part of a key: threads, kind of machine, versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from picual.executors.host import Host
from picual.hardware import Machine
from picual.recipe.hosting import hosts_of
from picual.recipe.schema import Recipe

STATE = "hosts"  # folder of a store that hosts keep environments and the like in


@dataclass(frozen=True)
class Site:
    """One host, as jobs see it."""

    name: str
    host: Host
    threads: int
    device: str  # kind of machine: equal names promise equal bytes
    state: Path  # what the host keeps on this machine

    def version_of(self, distribution: str) -> str:
        """Return the version of a library there, or ``""``."""
        return self.host.version_of(distribution, self.state)


def sites_of(recipe: Recipe, machine: Machine, store: Path) -> Mapping[str, Site]:
    """Return the hosts that a recipe uses, by name.

    Args:
        recipe: A checked one.
        machine: This one.
        store: Root of the store.
    """
    threads = recipe.threads or recipe.target.threads
    return {
        name: Site(name, host, threads or host.threads_of(machine), host.device_class(machine), store / STATE)
        for name, host in hosts_of(recipe).items()
    }
