"""`data_configs`: where rows come from and how they become text, in all the ways Olive has spelled it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from picual.data.base import DataConfig
from picual.errors import nearest
from picual.recipe.olive import data_names as names
from picual.recipe.olive.context import Context
from picual.recipe.olive.data_text import DatasetForm, read_text
from picual.recipe.olive.notes import Path_, dotted
from picual.recipe.olive.reader import Found, Reader, object_reader, whole_number, word
from picual.recipe.olive.resource import resource
from picual.recipe.schema import Place

INPUT_MODEL_DATA = "__input_model_data_config__"
_DEFAULT_SPLIT = "validation"  # Olive's
_FILE_FORMATS = {"json", "csv", "text", "parquet", "arrow"}
_FIRST_ROWS = re.compile(r"\s*(\w+)\s*\[\s*:\s*(\d+)\s*\]\s*")


@dataclass
class DataSets:
    """The data sets of a recipe while they are gathered."""

    configs: dict[str, DataConfig] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)  # those that hold no text included
    paths: dict[str, Path_] = field(default_factory=dict)
    batches: dict[str, int] = field(default_factory=dict)  # rows in a batch, for timings

    def put(self, context: Context, name: str, found: Found) -> None:
        """Read one data config and keep it under its name."""
        self.seen.add(name)
        if (size := _batch_size(found.value)) is not None:
            self.batches[name] = size
        config, where = _read(context, name, found)
        self.places[name] = context.ledger.place(found.path)
        if config is None:
            return
        self.configs[name] = config
        self.paths[name] = found.path
        self.places |= {f"{name}.{key}": context.ledger.place(path) for key, path in where.items()}

    def free(self, name: str) -> str:
        """Return a name that no data set has yet: this one, or one with a number."""
        number, free = 2, name
        while free in self.seen:
            free, number = f"{name}_{number}", number + 1
        return free

    def leave_out_empty(self, context: Context, used: Set[str]) -> None:
        """Leave out the sets that name no rows and that nothing uses: Olive never reads them either."""
        for name, config in list(self.configs.items()):
            if not config.files and config.name is None and name not in used:
                context.ledger.left_out(self.paths[name], "nothing uses it, and it names no rows")
                del self.configs[name]


def _batch_size(value: Any) -> int | None:
    """Return the first `batch_size` inside a data config, whichever part it is in."""
    if not isinstance(value, Mapping):
        return None
    own = whole_number(value.get("batch_size"))
    if own is not None and own > 0:
        return own
    return next((size for part in value.values() if (size := _batch_size(part)) is not None), None)


def read_data(context: Context, top: Reader, dataset: Found | None, root: str | None) -> DataSets:
    """Return the data sets of a config, by name.

    Args:
        context: Of the import.
        top: The config.
        dataset: What the old form keeps in `hf_config.dataset`.
        root: The old form's `data_root`, which relative paths of data files begin with.

    Raises:
        BadValue: `data_configs` is neither a list nor a mapping.
    """
    if root is not None and "://" not in root:
        root = str(context.folder / root)
    sets = DataSets()
    for name, found in _entries(context, top):
        sets.put(context, name, found)
    if dataset is not None and isinstance(dataset.value, Mapping):
        sets.put(context, INPUT_MODEL_DATA, dataset)
    if root is not None:
        sets.configs = {name: _under(config, root, context.folder) for name, config in sets.configs.items()}
    return sets


def _entries(context: Context, top: Reader) -> list[tuple[str, Found]]:
    ledger = context.ledger
    found = top.given("data_configs")
    if found is None:
        return []
    if not isinstance(found.value, list | dict):
        raise ledger.wrong_shape(found.path, "a list of data configs")
    ledger.opened(found.path)
    entries: list[tuple[str, Found]] = []
    keyed: list[tuple[str | int, Any]] = (
        list(found.value.items()) if isinstance(found.value, dict) else list(enumerate(found.value))
    )
    for key, value in keyed:
        path: Path_ = (*found.path, key)
        if not isinstance(value, dict):
            ledger.problem(path, "a data config must be a mapping")
            continue
        own = value.get("name")
        name = key if isinstance(key, str) else own if isinstance(own, str) and own else f"data_{key}"
        if "name" in value:
            ledger.mapped((*path, "name"), f"data.{name}")
        if name in dict(entries):
            ledger.problem((*path, "name"), f"there is a second data config `{name}`", "give each its own name")
            continue
        entries.append((name, Found(path, value)))
    return entries


def _read(context: Context, name: str, found: Found) -> tuple[DataConfig | None, dict[str, Path_]]:
    """Return one data set, or None when its rows are no text; and where its fields stand."""
    ledger = context.ledger
    outer = object_reader(ledger, found, nested=None, rest=names.REST)
    kind = outer.find_type()
    container = "" if kind is None else word(kind.value)
    if container in names.NOT_TEXT:
        ledger.note(found.path, "later", f"`{name}` holds {names.NOT_TEXT[container]}; Picual reads text")
        return None, {}
    parts = _parts(outer)
    shared = [
        one for one in (outer.child("params_config", nested=None, rest=names.REST), outer) if one is not None
    ]
    types = {key: _custom_type(context, parts[key], own) for key, own in _OWN_TYPES.items()}
    if kind is not None:
        text = f"data.{name}" if container in {"huggingfacecontainer", "datacontainer"} else "read as rows of text"
        ledger.mapped(kind.path, text)
    layers = [layer for part in (names.PRE_PROCESS, names.LOAD) for layer in parts[part]]
    form = DatasetForm(
        reader=Reader(ledger, [*layers, *(one for reader in shared for one in reader.layers)]), name=name
    )
    form.hugging = container == "huggingfacecontainer"
    form.old = form.reader.has("params_config", "dataset_type", "source_max_len", "corpus_strategy")
    if types[names.PRE_PROCESS]:
        for layer in _whole(parts[names.PRE_PROCESS]):
            text = f"`{types[names.PRE_PROCESS]}` is the user's own code, never run: give a `template` instead"
            ledger.note(layer.path, "later", text)
    else:
        read_text(context, form)
    _rows(context, form, custom=types[names.LOAD])
    _leftovers(context, form, parts, types)
    return DataConfig(**form.values), form.where


_OWN_TYPES = {names.LOAD: names.OWN_LOAD, names.PRE_PROCESS: names.OWN_PRE_PROCESS}


def _parts(outer: Reader) -> dict[tuple[str, ...], list[Found]]:
    """Return the mappings that hold the arguments of each of the four parts, those that win first."""
    components = outer.child("components", nested=None, rest=names.REST)
    flat = outer.child("params_config", nested=None, rest=names.REST)
    keywords = None if flat is None else flat.child("component_kwargs", nested=None, rest=names.REST)
    found: dict[tuple[str, ...], list[Found]] = {}
    more = outer.child("component_kwargs", nested=None, rest=names.REST)
    for spellings in names.PARTS:
        found[spellings] = []
        for owner in (outer, components, keywords, more):
            for spelling in spellings if owner is not None else ():
                assert owner is not None
                if (part := owner.child(spelling, nested="params", rest=names.REST)) is not None:
                    found[spellings] += part.layers
    return found


def _custom_type(context: Context, layers: list[Found], own: set[str]) -> str:
    """Return the name of the user's code that stands in for one of Olive's own parts; empty when none does."""
    found = Reader(context.ledger, layers).find_type()
    if found is None or found.value is None:
        return ""
    if word(found.value) in own:
        context.ledger.mapped(found.path, "what Picual does with every data set")
        return ""
    text = f"`{found.value}` is the user's own code, never run: put its rows into a file and name it"
    context.ledger.note(found.path, "later", text)
    return str(found.value)


def _rows(context: Context, form: DatasetForm, *, custom: str) -> None:
    """Read where the rows come from."""
    reader, name = form.reader, form.name
    if custom:
        for key in ("data_name", "data_files", "subset", "split", "name", "data_dir", "path"):
            reader.drop(key, "later", f"an argument of `{custom}`, the user's own code, never run")
        return
    split = reader.text("split", to=f"data.{name}.split")
    known = _split_among_files(form, split)
    files = _files(context, form, known)
    given = reader.given("data_name")
    dataset = reader.text("data_name", to=f"data.{name}.{'files' if files else 'name'}")
    if files:
        form.put("files", tuple(_absolute(file, context.folder) for file in files), reader.find("data_files"))
        if known == split:
            _split_of_files(form, split)
        reader.drop("subset", "ignored", "files have no subsets")
        return
    if dataset is not None and word(dataset) not in _FILE_FORMATS:
        form.put("name", dataset, given)
    elif given is not None:
        context.ledger.note(given.path, "ignored", f"`{dataset}` is a kind of file, and no `data_files` are named")
    subset = reader.text("subset", to=f"data.{name}.subset")
    if subset is not None:
        form.put("subset", subset, reader.find("subset"))
    if split is not None:
        form.put("split", split, reader.find("split"))
    elif dataset is not None:
        form.put("split", _DEFAULT_SPLIT, None)
        context.ledger.note(form.path("split"), "defaulted", f"left out: `{_DEFAULT_SPLIT}`, as Olive does")


def _files(context: Context, form: DatasetForm, split: str | None) -> list[str]:
    found = form.reader.given("data_files")
    if found is None:
        return []
    to = f"data.{form.name}.files"
    if isinstance(found.value, dict) and "type" not in found.value:
        return _files_of_split(context, found, split, to)
    entries = found.value if isinstance(found.value, list) else [found.value]
    if isinstance(found.value, list) and all(isinstance(entry, str) for entry in entries):
        context.ledger.mapped(found.path, to)
        return [entry for entry in entries if entry]
    paths = (
        [(*found.path, index) for index in range(len(entries))] if isinstance(found.value, list) else [found.path]
    )
    files = [resource(context, Found(path, entry), to=to) for path, entry in zip(paths, entries, strict=True)]
    return [file for file in files if file]


def _split_among_files(form: DatasetForm, split: str | None) -> str | None:
    """Return the split that is meant where the files are named by split; elsewhere the one that is given."""
    found = form.reader.find("data_files")
    if found is None or not isinstance(found.value, dict) or "type" in found.value or not found.value:
        return split
    names = [str(name) for name in found.value]
    if split is None:
        return _default_split(form, names)
    unknown = [name for name in _names_in(split) if name not in names]
    if not unknown:
        return split
    given = form.reader.find("split")
    assert given is not None
    form.reader.ledger.problem(given.path, f"`data_files` has no split `{unknown[0]}`", nearest(unknown[0], names))
    return names[0]


def _default_split(form: DatasetForm, names: list[str]) -> str:
    """Return the split that is taken when none is given."""
    if _DEFAULT_SPLIT in names:
        chosen, text = _DEFAULT_SPLIT, "as Olive does"
    else:
        chosen, text = names[0], f"the first of `data_files` (Olive: `{_DEFAULT_SPLIT}`, which is not among them)"
    form.reader.ledger.note(form.path("split"), "defaulted", f"left out: `{chosen}`, {text}")
    return chosen


def _names_in(split: str) -> list[str]:
    """Return the names of the splits that a text such as `train[:500]+test` is about."""
    return [part.split("[")[0].strip() for part in split.split("+")]


def _files_of_split(context: Context, found: Found, split: str | None, to: str) -> list[str]:
    """Return the files of a split, or of several (`train+test`), out of `{train: ..., test: ...}`."""
    chosen = _names_in(split or "")
    files: list[str] = []
    for key, value in found.value.items():
        path = (*found.path, key)
        if key not in chosen:
            text = " and ".join(f"`{name}`" for name in chosen)
            context.ledger.note(path, "ignored", f"only the files of {text} are rows of this data set")
        elif isinstance(value, list) and all(isinstance(entry, str) for entry in value):
            context.ledger.mapped(path, to)
            files += value
        elif (file := resource(context, Found(path, value), to=to)) is not None:
            files.append(file)
    return files


def _split_of_files(form: DatasetForm, split: str | None) -> None:
    """Take what a split says of files, which have none: `train[:500]` is their first 500 rows."""
    found = form.reader.find("split")
    if split is None or found is None:
        return
    ledger = form.reader.ledger
    if match := _FIRST_ROWS.fullmatch(split):
        _first_rows(form, found, int(match.group(2)))
    elif "[" in split:
        ledger.note(found.path, "ignored", "a slice of files is not supported in this version: all rows are read")
    else:
        ledger.note(found.path, "mapped", f"the rows of the files are the split `{split}`")


def _first_rows(form: DatasetForm, found: Found, rows: int) -> None:
    """Take the number of rows that a split names, unless `max_samples` takes fewer of them."""
    ledger = form.reader.ledger
    most = form.values.get("max_samples")
    if most is not None and most <= rows:
        ledger.note(found.path, "mapped", f"of these {rows} rows `max_samples` takes {most}")
        return
    form.put("max_samples", rows, found)
    ledger.note(found.path, "mapped", f"becomes `data.{form.name}.max_samples`")
    given = form.reader.find("max_samples")
    if most is not None and given is not None:
        ledger.note(given.path, "mapped", f"`split` names no more than {rows} rows: `{dotted(found.path)}`")


def _leftovers(
    context: Context, form: DatasetForm, parts: dict[tuple[str, ...], list[Found]], types: Mapping[Any, str]
) -> None:
    """Say of every other key why it has no effect."""
    for part, text in (
        (names.POST_PROCESS, "the model's answer is text, which needs no further processing"),
        (names.LOADER, "batches are made by the step: `training.per_device_train_batch_size`"),
    ):
        for layer in _whole(parts[part]):
            context.ledger.note(layer.path, "ignored", text)
    used = any(types.values())
    for key in ("user_script", "script_dir"):
        text = (
            "code of the user's own is never run while data is read" if used else "none of its code is called for"
        )
        form.reader.drop(key, "later" if used else "ignored", text)
    form.reader.drop_all(names.UNUSED)


def _whole(layers: list[Found]) -> list[Found]:
    """Return the mappings of a part without the `params` inside them."""
    return [layer for layer in layers if layer.path[-1] != "params"]


def _absolute(file: str, folder: Path) -> str:
    return file if "://" in file or file.startswith("azureml:") else str(folder / Path(file).expanduser())


def _under(config: DataConfig, root: str, folder: Path) -> DataConfig:
    """Return the data set with its relative files below the old form's `data_root`."""
    files = []
    for file in config.files:
        inside = Path(file).is_relative_to(folder) and "://" not in file
        relative = Path(file).relative_to(folder).as_posix() if inside else ""
        files.append(f"{root.rstrip('/')}/{relative}" if inside else file)
    return DataConfig(**{**config.to_wire(), "files": tuple(files)})
