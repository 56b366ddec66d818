"""The adapters of a GenAI folder: ``adapters/NAME.onnx_adapter``, each the values of inputs that its graph has.

``picual_adapters.json`` says which of them answers where none is asked for; without it, the only one does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from picual import _lazy
from picual.errors import BadValue, UnknownName, UnreadableModel, nearest
from picual.models.hf import read_json

if TYPE_CHECKING:
    import numpy.typing as npt

FOLDER, SUFFIX = "adapters", ".onnx_adapter"
DESCRIPTION = "picual_adapters.json"
NONE = "none"  # asked for, it is the base alone


def adapters_of(folder: Path) -> dict[str, Path]:
    """Return the adapter files of a GenAI folder by name, sorted."""
    return {file.stem: file for file in sorted((folder / FOLDER).glob(f"*{SUFFIX}"))}


def chosen(folder: Path, asked: str | None = None) -> str | None:
    """Return the name of the adapter that answers; None: the base alone.

    Args:
        folder: Of the model.
        asked: A name, ``none``, or None for the folder's own default.

    Raises:
        UnknownName: There is no adapter of that name.
        BadValue: There are several, none is asked for, and the folder names none.
    """
    known = adapters_of(folder)
    if asked is None and (folder / DESCRIPTION).is_file():
        asked = str(read_json(folder / DESCRIPTION).get("active") or NONE)
    if asked == NONE and asked not in known:
        return None
    if asked is None and len(known) < 2:
        return next(iter(known), None)
    names = ", ".join(f"`{name}`" for name in (*known, NONE))
    if asked is None:
        raise BadValue(
            f"the model has {len(known)} adapters and says of none that it answers",
            where=str(folder),
            hint=f"name one: it can be {names}",
        )
    if asked not in known:
        hint = nearest(asked, list(known)) or (f"it can be {names}" if known else "export the model with adapters")
        raise UnknownName(f"the model has no adapter `{asked}`", where=str(folder), hint=hint)
    return asked


def arrays_of(file: Path) -> dict[str, npt.NDArray[Any]]:
    """Return what an adapter file hands to the graph, by the names of its inputs.

    Raises:
        UnreadableModel: It is no adapter file.
    """
    onnxruntime = _lazy.need("onnxruntime", extra="cpu", by="an adapter of an ONNX Runtime GenAI model")
    try:
        adapter = onnxruntime.AdapterFormat.read_adapter(str(file))  # it owns the values' memory
        return {str(name): value.numpy().copy() for name, value in sorted(adapter.get_parameters().items())}
    except RuntimeError as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UnreadableModel(
            f"`{file.name}` is no readable adapter file ({reason})", where=str(file), hint="export the model again"
        ) from error
