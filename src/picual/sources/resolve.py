"""Which source a model's address means. Looks at names and folders only: no network, no heavy import."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from picual.errors import BadValue, UnknownName, nearest
from picual.sources.adapted import AdaptedSource
from picual.sources.azure_address import is_address, parse
from picual.sources.azure_client import Access
from picual.sources.azureml import AzureMlSource
from picual.sources.base import Source
from picual.sources.digests import DigestMemory
from picual.sources.folder import FolderSource
from picual.sources.gguf import GgufSource
from picual.sources.hub import HubSource
from picual.sources.mlflow import MlflowSource
from picual.sources.wheel import KNOWN, LAYOUTS, WheelSource

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
FORMATS = ("auto", "hf", "gguf", "mlflow")
ACCESS = ("aml_config_path", "max_operation_retries", "operation_retry_interval")  # options of what Azure keeps
KIND = "type"  # option of a model that Olive calls by a kind of its own
NO_OPTIONS: Mapping[str, Any] = {}


def resolve(
    uri: str,
    *,
    revision: str | None = None,
    format: str = "auto",
    adapter: str | None = None,
    trust_remote_code: bool = False,
    options: Mapping[str, Any] = NO_OPTIONS,
    folder: Path,
    offline: bool = False,
    trust: bool = False,
    digests: DigestMemory | None = None,
) -> Source:
    """Return the source that ``uri`` names.

    Args:
        uri: A folder or file, a hub id (``owner/name``), a model of ``wheel.KNOWN``, or an address in Azure
            (see ``azure_address``). What exists on this machine is never taken for a hub id.
        revision: Of a hub id.
        format: ``hf``, ``gguf`` or ``mlflow`` where the files do not say it themselves.
        adapter: Folder, hub id or address in Azure of a LoRA adapter to put on top.
        trust_remote_code: Whether the model may bring its own code.
        options: What else the recipe says of the model: ``layout`` of a known model; for Azure
            ``aml_config_path``, ``max_operation_retries`` and ``operation_retry_interval``.
        folder: That relative paths are relative to: the recipe's.
        offline: Forbid every network call.
        trust: Whether pickles may be loaded.
        digests: Where digests of local files are remembered; left out, each is hashed whenever it is asked for.

    Raises:
        BadValue, UnknownName: The address, format or an option means nothing.
    """
    if format not in FORMATS:
        raise UnknownName(f"unknown model format `{format}`", hint=nearest(format, FORMATS))
    memory = digests or DigestMemory(None)
    hub = {"trust_remote_code": trust_remote_code, "offline": offline}
    source = _local(folder / Path(uri).expanduser(), uri, format, trust_remote_code, trust, memory)
    if source is None:
        source = _remote(uri, revision or "main", options, folder, trust=trust, **hub)
    from_azure = adapter is not None and is_address(adapter)
    _without_effect(
        source, uri, revision, {name: options[name] for name in options if not (from_azure and name in ACCESS)}
    )
    if adapter is None:
        return source
    return AdaptedSource(base=source, adapter=_adapter(adapter, options, folder, offline=offline), digests=memory)


def refuse_kind(options: Mapping[str, Any], *, by_azure: bool) -> None:
    """Refuse a model that Olive calls by a kind of its own; what Azure keeps may say by its files what it is.

    Raises:
        BadValue: The kind is not among those that a recipe can start from.
    """
    kind = str(options.get(KIND) or "")
    if kind and not (by_azure and kind == "PyTorchModel"):
        raise BadValue(
            f"`{kind}` as input is not supported in this version",
            hint="give a Hugging Face checkpoint (`HfModel`): its folder, its hub id, or it as GGUF or MLflow",
        )


def _without_effect(source: Source, uri: str, revision: str | None, options: Mapping[str, Any]) -> None:
    """Refuse what would be passed over: a revision of what is no hub id, an option unknown to the source."""
    if revision is not None and not isinstance(source, HubSource | AzureMlSource):
        raise BadValue(f"`revision` is of a hub id, and `{uri}` is none", hint="leave out `revision`")
    refuse_kind(options, by_azure=isinstance(source, AzureMlSource))
    known = ("layout",) if isinstance(source, WheelSource) else ()
    unknown = [] if isinstance(source, AzureMlSource) else [name for name in options if name not in known]
    if unknown:
        raise BadValue(f"`{uri}` has no option `{unknown[0]}`", hint=f"leave out `{unknown[0]}`")


def _local(
    path: Path, uri: str, format: str, trust_remote_code: bool, trust: bool, digests: DigestMemory
) -> Source | None:
    """Return the source of files on this machine, or None if nothing is there."""
    if "://" in uri or is_address(uri) or not path.exists():
        return None
    if path.is_file():
        if format == "gguf" or (format == "auto" and path.suffix.lower() == ".gguf"):
            return GgufSource(file=path, digests=digests)
        if path.suffix == ".onnx":
            return FolderSource(path=path, digests=digests)
        raise BadValue(
            f"`{uri}` is a file; a model is a folder with `config.json`, or a GGUF file",
            hint=f"give its folder: `--model {shlex.quote(str(Path(uri).parent))}`",
        )
    if format == "gguf":
        return GgufSource(file=_only_gguf(path), digests=digests)
    is_checkpoint = (path / "config.json").is_file()
    if format == "mlflow" or (format == "auto" and not is_checkpoint and any(path.rglob("MLmodel"))):
        return MlflowSource(path=path, digests=digests, trust_remote_code=trust_remote_code, trust=trust)
    return FolderSource(path=path, digests=digests, trust_remote_code=trust_remote_code)


def _only_gguf(folder: Path) -> Path:
    found = sorted(folder.glob("*.gguf"))
    if len(found) != 1:
        raise BadValue(
            f"{len(found)} GGUF files are in the model folder; one is needed",
            where=str(folder),
            hint="give the file itself: `--model FOLDER/FILE.gguf`",
        )
    return found[0]


def _remote(
    uri: str, revision: str, options: Mapping[str, Any], folder: Path, *, trust: bool, trust_remote_code: bool,
    offline: bool,
) -> Source:  # fmt: skip
    if is_address(uri):
        parse(uri)
        return AzureMlSource(
            uri=uri, access=Access.of(options, folder), trust=trust, trust_remote_code=trust_remote_code,
            offline=offline,
        )  # fmt: skip
    if uri in KNOWN:
        return WheelSource(name=uri, layout=_layout(options), offline=offline)
    if "://" in uri or uri.startswith((".", "/", "~")) or not HUB_ID.fullmatch(uri):
        raise BadValue(
            f"there is no model at `{uri}`",
            where=str(folder),
            hint=_close(uri, _neighbours(folder, uri))
            or "give another with `--model PATH`; a hub id is `owner/name`",
        )
    if "/" not in uri and (hint := _close(uri, list(KNOWN))):  # new hub ids all have an owner
        raise UnknownName(f"unknown model `{uri}`", hint=hint)
    return HubSource(repo=uri, revision=revision, trust_remote_code=trust_remote_code, offline=offline)


def _close(uri: str, known: Sequence[str]) -> str:
    """Return a hint with the nearest names, and none where nothing is near."""
    hint = nearest(uri, known)
    return hint if hint.startswith("did you mean") else ""


def _layout(options: Mapping[str, Any]) -> str:
    layout = str(options.get("layout") or LAYOUTS[0])
    if layout not in LAYOUTS:
        raise UnknownName(f"unknown layout `{layout}`", hint=nearest(layout, LAYOUTS))
    return layout


def _neighbours(folder: Path, uri: str) -> list[str]:
    """Return the folders that stand where ``uri`` should, spelled as ``uri`` is."""
    parent = (folder / Path(uri).expanduser()).parent
    stem = uri[: len(uri) - len(Path(uri).name)]
    return [stem + path.name for path in sorted(parent.iterdir()) if path.is_dir()] if parent.is_dir() else []


def _adapter(
    adapter: str, options: Mapping[str, Any], folder: Path, *, offline: bool
) -> Path | HubSource | AzureMlSource:
    if is_address(adapter):
        parse(adapter)
        return AzureMlSource(uri=adapter, access=Access.of(options, folder), offline=offline)
    path = folder / Path(adapter).expanduser()
    if path.is_dir():
        if (path / "adapter_config.json").is_file():
            return path
        raise BadValue(
            f"the adapter folder `{adapter}` has no `adapter_config.json`",
            hint="give a folder that peft's `save_pretrained` made",
        )
    if HUB_ID.fullmatch(adapter) and "/" in adapter and not adapter.startswith("."):
        return HubSource(repo=adapter, offline=offline)
    raise BadValue(f"there is no adapter at `{adapter}`", where=str(folder), hint="check the path")
