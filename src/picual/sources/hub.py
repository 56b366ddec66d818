"""A model on the Hugging Face hub, by id and revision, through huggingface_hub's own cache.

What the cache holds is found without a network call: a moving revision (`main`) is then the commit that was
fetched. A run is therefore repeatable until the user asks for another revision or clears the cache.

Cache layout: huggingface_hub, "Manage the huggingface_hub cache": ``models--OWNER--NAME/`` with ``refs/REVISION``
(a commit), ``snapshots/COMMIT/FILE`` (links) and ``blobs/``, named by SHA-256 (large files) or git digest.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picual import _lazy, fingerprint
from picual.errors import BadValue, EnvironmentFault, PicualError, Refused, UnreadableModel
from picual.models import HfModel, Model
from picual.models.hf import weight_files
from picual.sources import files
from picual.sources.base import Fetched, Source

COMMIT = re.compile(r"[0-9a-f]{40}")
BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """``owner/name`` at a revision. A token is taken from ``HF_TOKEN`` or the hub's own login."""

    repo: str
    revision: str = "main"
    trust_remote_code: bool = False
    offline: bool = False

    @property
    def fetches(self) -> bool:
        """Say whether something has to be downloaded."""
        return self.snapshot() is None

    @property
    def notes(self) -> tuple[str, ...]:
        """Say which commit a moving revision stands for."""
        if COMMIT.fullmatch(self.revision) or (commit := self._cached_commit()) is None:
            return ()
        pinned = f"pin it with `revision: {commit}`"
        return (f"{self.repo}: revision `{self.revision}` is commit {commit[:12]} of the local cache; {pinned}",)

    def key_parts(self) -> Mapping[str, Any]:
        """Return the digest of the files; asks the hub for it when they are not here.

        Raises:
            BadValue: The hub has no such model or revision.
            EnvironmentFault: Offline, no access, or the hub does not answer.
        """
        snapshot = self.snapshot()
        if snapshot is not None:
            return {"content": [_digest(snapshot) or fingerprint.digest([self.repo, snapshot.name])]}
        return {"content": [fingerprint.folder_digest(_remote(self).files)]}

    def obstacles(self) -> Sequence[PicualError]:
        """Return nothing: only the hub knows."""
        return ()

    def locate(self) -> Fetched | None:
        """Return the model from the cache, if all of it is there."""
        snapshot = self.snapshot()
        if snapshot is None:
            return None
        return Fetched(HfModel(snapshot, self.trust_remote_code), _digest(snapshot), self.notes)

    def fetch(self, folder: Path) -> Model:
        """Download what the cache lacks and link it into ``folder``."""
        self.download(folder)
        if not any(folder.glob("*.safetensors")):
            raise _no_safetensors(self.repo)
        return HfModel(folder, self.trust_remote_code)

    def download(self, folder: Path) -> None:
        """Bring the files into ``folder``, whatever they are."""
        snapshot = self.snapshot()
        if snapshot is None:
            commit = _remote(self).commit
            hub = _lazy.need("huggingface_hub", extra="hf", by="the hub")
            with _explained(self):
                snapshot = Path(
                    hub.snapshot_download(
                        self.repo,
                        revision=commit,
                        allow_patterns=list(files.PATTERNS),
                        ignore_patterns=list(files.LEFT_OUT),
                    )
                )
            _remember(snapshot, self.revision)
        files.link(files.model_files(snapshot), folder)

    def snapshot(self) -> Path | None:
        """Return the folder in the cache that holds the whole model or adapter at this revision."""
        commit = self._cached_commit()
        if commit is None:
            return None
        folder = _cache() / _folder_name(self.repo) / "snapshots" / commit
        return folder if _is_whole(folder) else None

    def _cached_commit(self) -> str | None:
        if COMMIT.fullmatch(self.revision):
            return self.revision
        reference = _cache() / _folder_name(self.repo) / "refs" / self.revision
        try:
            return reference.read_text(encoding="utf-8").strip()
        except OSError:
            return None


@dataclass(frozen=True)
class _Remote:
    """What the hub says of a revision: its commit, and the files that matter with the names of their blobs."""

    commit: str
    files: Mapping[str, str]


@functools.lru_cache(maxsize=8)  # a plan and the job it starts ask the same
def _remote(source: HubSource) -> _Remote:
    _require_network(source)
    hub = _lazy.need("huggingface_hub", extra="hf", by="the hub")
    revision = source._cached_commit() or source.revision
    with _explained(source):
        info = hub.HfApi().model_info(source.repo, revision=revision, files_metadata=True)
    listed = {entry.rfilename: entry for entry in info.siblings or ()}
    blobs = {
        name: str(entry.lfs.sha256 if entry.lfs is not None else entry.blob_id)
        for name, entry in listed.items()
        if files.matters(name)
    }
    if not any(name.endswith(".safetensors") for name in blobs):
        raise _no_safetensors(source.repo)
    return _Remote(str(info.sha), blobs)


def _require_network(source: HubSource) -> None:
    constants = _lazy.need("huggingface_hub.constants", extra="hf", by="the hub")
    if not source.offline and not constants.HF_HUB_OFFLINE:
        return
    why = "--offline" if source.offline else "HF_HUB_OFFLINE"
    raise EnvironmentFault(
        f"`{source.repo}` at `{source.revision}` is not in the local cache, and `{why}` forbids to fetch it",
        where=str(_cache()),
        hint=f"drop `{why}`, or give a local folder: `--model PATH`",
    )


@contextlib.contextmanager
def _explained(source: HubSource) -> Iterator[None]:
    """Turn what huggingface_hub raises into errors that say what to do."""
    errors = _lazy.need("huggingface_hub.errors", extra="hf", by="the hub")
    try:
        yield
    except errors.HFValidationError as error:
        raise BadValue(f"`{source.repo}` is not a hub id", hint="a hub id is `owner/name`") from error
    except errors.GatedRepoError as error:  # before its base class, which says "not found"
        raise EnvironmentFault(
            f"`{source.repo}` asks its users to accept a licence first, and this login has not",
            hint="accept it on the model's page, then `export HF_TOKEN=...` with a token of that login",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BadValue(
            f"`{source.repo}` has no revision `{source.revision}`", hint="leave `revision` out to use `main`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise BadValue(
            f"the hub has no model `{source.repo}`, or it is private",
            hint="check the spelling; for a private model, `export HF_TOKEN=...`",
        ) from error
    except (errors.HTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise _unreachable(source, error) from error


def _unreachable(source: HubSource, error: Exception) -> PicualError:
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return EnvironmentFault(
        f"`{source.repo}` could not be fetched from the hub ({first})",
        hint="check the network and run the same command again, or give a local folder: `--model PATH`",
    )


def _no_safetensors(repo: str) -> Refused:
    return Refused(
        f"`{repo}` holds no safetensors weights; pickles can run any code when they are loaded",
        hint="choose a revision with safetensors: `revision: refs/pr/N`, or convert it: `save_pretrained`",
    )


def _cache() -> Path:
    constants = _lazy.need("huggingface_hub.constants", extra="hf", by="the hub")
    return Path(constants.HF_HUB_CACHE)


def _folder_name(repo: str) -> str:
    return "--".join(["models", *repo.split("/")])


def _is_whole(folder: Path) -> bool:
    """Say whether a snapshot holds a config, every shard and a tokenizer; or an adapter."""
    if (folder / "adapter_config.json").is_file():
        return (folder / "adapter_model.safetensors").is_file()
    try:
        weight_files(folder)
    except UnreadableModel:
        return False
    return (folder / "config.json").is_file() and any((folder / name).is_file() for name in TOKENIZERS)


def _digest(snapshot: Path) -> str | None:
    """Return one digest from the names of the blobs; None where the cache holds copies instead of links."""
    blobs = {file.name: file.resolve().name for file in files.model_files(snapshot)}
    if not all(BLOB.fullmatch(blob) for blob in blobs.values()):
        return None
    return fingerprint.folder_digest(blobs)


def _remember(snapshot: Path, revision: str) -> None:
    """Note which commit a moving revision was, as the hub's own tools do: the next run needs no network."""
    if COMMIT.fullmatch(revision):
        return
    reference = snapshot.parent.parent / "refs" / revision
    if not reference.exists():
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(snapshot.name, encoding="utf-8")


_: type[Source] = HubSource
