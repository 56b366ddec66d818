"""``azureml://`` models: recognised, so that a cloud recipe can be checked and planned; not fetched here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from picual.errors import EnvironmentFault, PicualError
from picual.models import Model
from picual.sources.base import Fetched, Source


@dataclass(frozen=True, kw_only=True)
class AzureMlSource:
    """A registry, workspace or datastore address; ``options`` hold what the recipe says beside it."""

    uri: str
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def fetches(self) -> bool:
        """Say yes."""
        return True

    def key_parts(self) -> Mapping[str, Any]:
        """Return the address: registry models never change under one version."""
        return {"azureml": self.uri, "options": dict(self.options)}

    def locate(self) -> Fetched | None:
        """Return nothing: the model is elsewhere."""
        return None

    def obstacles(self) -> Sequence[PicualError]:
        """Return that it cannot be fetched."""
        return [self._refusal()]

    def fetch(self, folder: Path) -> Model:
        """Refuse.

        Raises:
            EnvironmentFault: Always.
        """
        raise self._refusal()

    def _refusal(self) -> EnvironmentFault:
        return EnvironmentFault(
            "models on Azure Machine Learning cannot be fetched from this version",
            where=self.uri,
            hint="download the model and give its folder: `--model PATH`",
        )


_: type[Source] = AzureMlSource
