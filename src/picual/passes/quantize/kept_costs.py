"""What measuring took a while to find, kept in a step's scratch folder so that a killed run has it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from picual import _atomic
from picual.numerics.block_sizes import Format
from picual.passes.quantize.measuring import Costs
from picual.passes.quantize.sites import Site

FILE = "costs.json"


class KeptCosts:
    """One file of costs.

    Args:
        scratch: Outlives a kill.
        inputs: Digest of all that decides the costs.
    """

    def __init__(self, scratch: Path, inputs: str) -> None:
        self._file, self._inputs = scratch / FILE, inputs

    def write(self, costs: Costs) -> None:
        """Keep the costs."""
        rows = {site.names[0]: {str(form): cost for form, cost in forms.items()} for site, forms in costs.items()}
        _atomic.write_json(self._file, {"inputs": self._inputs, "costs": rows})

    def read(self, candidates: Mapping[Site, Sequence[Format]]) -> Costs | None:
        """Return what an interrupted run of the same inputs measured."""
        if not self._file.exists():
            return None
        said = json.loads(self._file.read_text(encoding="utf-8"))
        if said["inputs"] != self._inputs:
            return None
        rows = said["costs"]
        return {
            site: {form: rows[site.names[0]][str(form)] for form in forms if str(form) in rows[site.names[0]]}
            for site, forms in candidates.items()
            if site.names[0] in rows
        }
