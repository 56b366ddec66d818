"""What to try next: one sampler a file. A table of strings; listing imports none."""

from __future__ import annotations

import importlib

from picual.errors import UnknownName, nearest
from picual.search.parameters import Space
from picual.search.samplers.base import Sampler

BUILT_IN: dict[str, str] = {
    "grid": "picual.search.samplers.grid:Grid",
    "random": "picual.search.samplers.random_order:RandomOrder",
    "gp": "picual.search.samplers.gaussian_process:GaussianProcess",
    "tpe": "picual.search.samplers.tpe:Tpe",
    "bisect": "picual.search.samplers.bisect:Bisect",
    "nsga2": "picual.search.samplers.nsga2:Nsga2",
}
LARGEST_MODELLED = 20_000  # candidates that a Gaussian process ranks in a blink


def names() -> tuple[str, ...]:
    """Return every sampler's name."""
    return tuple(BUILT_IN)


def load(name: str) -> Sampler:
    """Return a sampler.

    Raises:
        UnknownName: There is none of that name.
    """
    location = BUILT_IN.get(name)
    if location is None:
        raise UnknownName(f"unknown sampler `{name}`", hint=nearest(name, names()))
    module, _, attribute = location.partition(":")
    made: Sampler = getattr(importlib.import_module(module), attribute)()
    return made


def chosen(space: Space, *, trials: int, objectives: int) -> str:
    """Return the sampler for ``auto``: all candidates if there is time, else what fits space and objectives."""
    size = space.size
    if size is not None and size <= trials:
        return "grid"
    if objectives > 1:
        return "nsga2"
    return "gp" if size is not None and size <= LARGEST_MODELLED else "tpe"
