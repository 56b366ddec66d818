"""A model kept in Azure: in a registry, a workspace, a datastore, a job's output or a storage account.

What identifies it, without its bytes: a registered version, which Azure never changes, is its address; ``latest``
is the version it stands for now; a path or an output is what a listing says of each file: name, size, ETag. So
what moves needs the network before it has a key, and `picual plan` does not ask.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picual import _lazy, fingerprint
from picual.errors import EnvironmentFault, PicualError, UnreadableModel
from picual.models import Model
from picual.models.detect import open_folder
from picual.sources import azure_download, azure_lookup, files
from picual.sources.azure_address import Asset, parse, shown
from picual.sources.azure_client import BY, EXTRA, PACKAGES, Access
from picual.sources.base import Fetched, Source
from picual.sources.digests import DigestMemory
from picual.sources.mlflow import MlflowSource


@dataclass(frozen=True, kw_only=True)
class AzureMlSource:
    """An address in Azure.

    Attributes:
        uri: See ``azure_address``.
        access: Who asks, and how patiently.
        trust: Whether pickles may be loaded.
    """

    uri: str
    access: Access
    trust_remote_code: bool = False
    trust: bool = False
    offline: bool = False
    notes: tuple[str, ...] = ()

    @property
    def fetches(self) -> bool:
        """Say yes."""
        return True

    @property
    def key_needs_network(self) -> bool:
        """Say whether ``key_parts`` would have to ask: of what moves, in a process that has not asked yet."""
        address = parse(self.uri)
        return not (isinstance(address, Asset) and address.version) and self not in _ASKED

    def key_parts(self) -> Mapping[str, Any]:
        """Return the address of a registered version; of what moves, what is there now.

        Raises:
            BadValue, UnknownName: Nothing is there.
            EnvironmentFault: Offline, no credential, no access or no answer.
        """
        address = parse(self.uri)
        if isinstance(address, Asset) and address.version:
            return {"azureml": shown(self.uri)}
        return {"azureml": shown(self.uri), **_found(self)}

    def locate(self) -> Fetched | None:
        """Return nothing: the model is elsewhere, or in the store."""
        return None

    def obstacles(self) -> Sequence[PicualError]:
        """Return the packages that are missing, or that the network may not be used."""
        absent = [name for name in PACKAGES if not _lazy.is_installed(name)]
        found: list[PicualError] = [_lazy.missing(name, extra=EXTRA, by=BY) for name in absent[:1]]
        return [*found, *([_no_network(self.uri)] if self.offline else [])]

    def fetch(self, folder: Path) -> Model:
        """Download it beside ``folder``, then put the model together in it.

        Raises:
            UnreadableModel: What was downloaded is no model.
            EnvironmentFault: It cannot be fetched.
        """
        with self._brought(folder.parent / "download") as brought:
            return self._assembled(brought, folder)

    def fetch_adapter(self, folder: Path) -> None:
        """Download an adapter beside ``folder``, then put its files into it.

        Raises:
            UnreadableModel: What was downloaded is no adapter.
            EnvironmentFault: It cannot be fetched.
        """
        with self._brought(folder.parent / "download") as brought:
            found = _nearest(brought, ("adapter_config.json",))
            if found is None:
                raise UnreadableModel(
                    "what is kept there is no adapter: there is no `adapter_config.json`", where=shown(self.uri),
                    hint="give the address of a folder that peft's `save_pretrained` made",
                )  # fmt: skip
            files.copy(files.model_files(found), folder)

    @contextlib.contextmanager
    def _brought(self, place: Path) -> Iterator[Path]:
        """Download everything for a while."""
        _require_network(self)
        shutil.rmtree(place, ignore_errors=True)
        try:
            there = azure_lookup.locate(self.uri, self.access)
            azure_download.download(there, azure_lookup.entries(there, self.access), place, self.access)
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _assembled(self, brought: Path, folder: Path) -> Model:
        if any(brought.rglob("MLmodel")):
            source = MlflowSource(
                path=brought,
                digests=DigestMemory(None),
                trust_remote_code=self.trust_remote_code,
                trust=self.trust,
            )
            return source.fetch(folder)
        root = _model_root(brought, self.uri)
        folder.mkdir(parents=True, exist_ok=True)
        for item in sorted(root.iterdir()):
            item.rename(folder / item.name)  # beside it, so the same file system
        return open_folder(folder, trust_remote_code=self.trust_remote_code)


def _model_root(brought: Path, uri: str) -> Path:
    """Return the folder that holds the model: models are often uploaded with a folder around them."""
    found = _nearest(brought, ("config.json", "genai_config.json", "adapter_config.json"))
    if found is None:
        raise UnreadableModel(
            "what is kept there is no model: there is no `config.json` and no `MLmodel`",
            where=shown(uri),
            hint="give the address of a folder that save_pretrained made, or of an MLflow model",
        )
    return found


def _nearest(brought: Path, marks: Sequence[str]) -> Path | None:
    """Return the folder nearest to the top that holds one of these files."""
    found = sorted((file for mark in marks for file in brought.rglob(mark)), key=lambda f: (len(f.parts), f))
    return found[0].parent if found else None


_ASKED: set[AzureMlSource] = set()


def _found(source: AzureMlSource) -> Mapping[str, Any]:
    """Return the version of an asset, or the digest of a listing; asked once in a process."""
    answer = _asked(source)
    _ASKED.add(source)
    return answer


@functools.lru_cache(maxsize=8)  # a plan and the job it starts ask the same
def _asked(source: AzureMlSource) -> Mapping[str, Any]:
    _require_network(source)
    place = azure_lookup.locate(source.uri, source.access)
    if place.version is not None:
        return {"version": place.version}
    listed = [[entry.name, entry.size, entry.etag] for entry in azure_lookup.entries(place, source.access)]
    return {"content": [fingerprint.digest(listed)]}


def _require_network(source: AzureMlSource) -> None:
    for obstacle in source.obstacles():
        raise obstacle


def _no_network(uri: str) -> EnvironmentFault:
    return EnvironmentFault(
        "the model is kept in Azure, and `--offline` forbids to fetch it",
        where=shown(uri),
        hint="drop `--offline`, or give a local folder: `--model PATH`",
    )


_: type[Source] = AzureMlSource
