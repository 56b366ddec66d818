"""A model with a LoRA adapter on top: two sources that make one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picual import fingerprint
from picual.errors import PicualError, UnreadableModel
from picual.models import HfAdapter, HfCheckpoint, Model
from picual.sources import files
from picual.sources.azureml import AzureMlSource
from picual.sources.base import Fetched, Source, needs_network
from picual.sources.digests import DigestMemory
from picual.sources.hub import HubSource


@dataclass(frozen=True, kw_only=True)
class AdaptedSource:
    """An adapter, in a folder, on the hub or in Azure, and the source of its base model."""

    base: Source
    adapter: Path | HubSource | AzureMlSource
    digests: DigestMemory

    @property
    def fetches(self) -> bool:
        """Say whether either of the two has to be brought."""
        return self.base.fetches or self._adapter_folder() is None

    @property
    def key_needs_network(self) -> bool:
        """Say whether the key of either has to be asked for."""
        return needs_network(self.base) or (
            isinstance(self.adapter, AzureMlSource) and needs_network(self.adapter)
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Return the notes of both."""
        mine = () if isinstance(self.adapter, Path) else self.adapter.notes
        return (*self.base.notes, *mine)

    def key_parts(self) -> Mapping[str, Any]:
        """Return one digest of both."""
        return {"content": [fingerprint.digest([self._adapter_parts(), dict(self.base.key_parts())])]}

    def obstacles(self) -> Sequence[PicualError]:
        """Return what stops the base, and an adapter in Azure; of two that are there, the same is told once."""
        found = list(self.base.obstacles())
        if isinstance(self.adapter, AzureMlSource) and not isinstance(self.base, AzureMlSource):
            found += self.adapter.obstacles()
        return found

    def locate(self) -> Fetched | None:
        """Return the adapter on its base, when both are here.

        Raises:
            UnreadableModel: One of the two is not what it should be.
        """
        folder = self._adapter_folder()
        base = None if self.base.fetches else self.base.locate()
        if folder is None or base is None:
            return None
        model = HfAdapter(folder, _base(base.model))
        model.adapter_config()
        digest = None
        if base.digest is not None:  # a base that might have been fetched: agree with `key_parts`
            digest = fingerprint.digest([self._adapter_parts(), {"content": [base.digest]}])
        return Fetched(model, digest, self.notes)

    def fetch(self, folder: Path) -> Model:
        """Bring the base into ``folder/base`` and the adapter into ``folder/adapter``."""
        (folder / "base").mkdir(parents=True)
        base = _base(self.base.fetch(folder / "base"))
        if isinstance(self.adapter, HubSource):
            self.adapter.download(folder / "adapter")
        elif isinstance(self.adapter, AzureMlSource):
            self.adapter.fetch_adapter(folder / "adapter")
        else:
            files.copy(files.model_files(self.adapter), folder / "adapter")
        model = HfAdapter(folder / "adapter", base)
        model.adapter_config()
        return model

    def _adapter_folder(self) -> Path | None:
        if isinstance(self.adapter, AzureMlSource):
            return None
        return self.adapter.snapshot() if isinstance(self.adapter, HubSource) else self.adapter

    def _adapter_parts(self) -> dict[str, Any]:
        if not isinstance(self.adapter, Path):
            return dict(self.adapter.key_parts())
        return {"content": [self.digests.folder(self.adapter)]}


def _base(model: Model) -> HfCheckpoint | HfAdapter:
    if not isinstance(model, HfCheckpoint | HfAdapter):
        raise UnreadableModel(
            f"an adapter goes on a Hugging Face model; this is {model.title}",
            where=str(model.path),
            hint="give the model that the adapter was trained on",
        )
    return model


_: type[Source] = AdaptedSource
