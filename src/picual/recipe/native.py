"""The native dialect: a document whose top level is what a recipe says, read into the value `Recipe`.

Reading never stops at a mistake: each becomes a problem of the recipe, and the value keeps its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from picual.data.base import DataConfig
from picual.errors import Problem, nearest
from picual.hardware import Device, Target
from picual.recipe import sizes
from picual.recipe.document import Document
from picual.recipe.fields import coerce, complaint, fit, is_search, near_choice, shown
from picual.recipe.schema import HostSpec, MetricSpec, ModelSource, Place, Recipe, StepSpec
from picual.recipe.spots import spot
from picual.sources.azure_address import is_address

VERSION = 1
KEYS = (
    "version", "model", "target", "host", "hosts", "data", "passes", "metrics", "search", "seed", "threads",
    "output", "store", "tracking", "register", "log",
)  # fmt: skip
MODEL_OPTIONS = ("layout",)
_WHERE_FROM = ("uri", "path", "name")
_MODEL: dict[str, Any] = {
    "revision": str | None,
    "format": Literal["auto", "hf", "gguf", "mlflow"],
    "adapter": str | None,
    "trust_remote_code": bool,
}
_TARGET: dict[str, Any] = {
    "device": Device,
    "provider": str,
    "runtime": Literal["onnxruntime-genai", "onnxruntime", "transformers"],
    "memory": int | None,
    "threads": int | None,
}
_TOP: dict[str, Any] = {
    "host": str,
    "seed": int,
    "threads": int | None,
    "output": str,
    "store": str | None,
    "tracking": str | None,
    "log": Literal["debug", "info", "warning", "error"],
}
_COUNTS = ("threads", "memory")
# Keys of an entry that are not fields of its pass or metric.
FOLDERS_OF_PASSES = ("adapters",)  # fields that name folders by a name of one's own, relative likewise
FILES_OF_METRICS = ("file", "code", "folder")  # fields that name one, relative to the recipe's folder
_ENTRY: dict[str, dict[str, Any]] = {"passes": {"type": str, "host": str}, "metrics": {"type": str}}
Path_ = tuple[str | int, ...]


def read(document: Document, *, folder: Path) -> Recipe:
    """Read a native document.

    Args:
        document: Whose top level is a mapping.
        folder: That its relative paths are relative to.
    """
    return _Reader(document, folder).recipe()


class _Reader:
    def __init__(self, document: Document, folder: Path) -> None:
        self.document = document
        self.folder = folder.absolute()
        self.value: dict[str, Any] = document.value
        self.problems: list[Problem] = list(document.problems)
        self.places: dict[str, Place] = {}

    def recipe(self) -> Recipe:
        self.version()
        self.only(self.value, KEYS, ())
        top = self.fitted(self.value, _TOP, ())
        search, register = (
            self.mapping(key) if self.value.get(key) is not None else None for key in ("search", "register")
        )
        log_level = top.pop("log", "info")
        return Recipe(
            model=self.model(),
            target=Target(**self.target()),
            target_host=self.fitted(self.mapping("target", again=True), {"host": str}, ("target",)).get("host"),
            hosts={"local": HostSpec(), **self.hosts()},
            data=self.data(),
            steps=tuple(StepSpec(**entry) for entry in self.entries("passes")),
            metrics=tuple(MetricSpec(**entry) for entry in self.entries("metrics")),
            search=search,
            register=register,
            log_level=log_level,
            folder=str(self.folder),
            file=self.document.file,
            data_places=self.data_places(),
            places=self.all_places(),
            problems=tuple(self.problems),
            **top,
        )

    def version(self) -> None:
        if "version" not in self.value:
            self.wrong((), "`version` is missing", "begin the recipe with `version: 1`")
        elif self.value["version"] != VERSION or isinstance(self.value["version"], bool):
            self.wrong(
                ("version",),
                f"version {self.value['version']} is not known; this Picual reads version {VERSION}",
                "write `version: 1`, or install the Picual that the recipe was written for",
            )

    def model(self) -> ModelSource:
        given = self.value.get("model")
        place = self.document.place(("model",))
        if isinstance(given, str):
            given = {"uri": given}
        if given is None or given == {"uri": ""}:
            self.wrong(("model",), "`model` is missing", "`model:` takes a folder, or an id such as `owner/name`")
            return ModelSource(uri="", place=place)
        if not isinstance(given, dict):
            self.wrong(("model",), complaint("model", given, str | Mapping[str, Any]))
            return ModelSource(uri="", place=place)
        self.only(given, (*_WHERE_FROM, *_MODEL, *MODEL_OPTIONS, "options"), ("model",))
        values = self.fitted(given, _MODEL, ("model",))
        options = self.fitted(given, {**dict.fromkeys(MODEL_OPTIONS, str), "options": dict[str, Any]}, ("model",))
        options |= options.pop("options", {})
        return ModelSource(uri=self.uri(given), options=options, place=place, **values)

    def uri(self, given: Mapping[str, Any]) -> str:
        named = [key for key in _WHERE_FROM if key in given]
        if len(named) != 1:
            what = "one of `uri`, `path` and `name`"
            self.wrong(("model",), f"`model` needs {what}" if not named else f"`model` takes only {what}")
            return ""
        found = self.fitted(given, {named[0]: str}, ("model",))
        return str(found.get(named[0], ""))

    def target(self) -> dict[str, Any]:
        given = self.mapping("target")
        self.only(given, (*_TARGET, "host"), ("target",))
        memory = given.get("memory")
        if isinstance(memory, str):
            given = {**given, "memory": sizes.bytes_of(memory)}
            if given["memory"] is None:
                self.wrong(("target", "memory"), f"`memory` is {shown(memory)}; it must be a size", "write `8GB`")
        return self.fitted(given, _TARGET, ("target",))

    def hosts(self) -> dict[str, HostSpec]:
        hosts = {}
        for name, given in self.mapping("hosts").items():
            path: Path_ = ("hosts", name)
            if not isinstance(given, dict):
                self.wrong(path, complaint(name, given, Mapping[str, Any]))
                continue
            kind = self.fitted({"type": "local", **given}, {"type": str}, path).get("type", "local")
            options = {key: value for key, value in given.items() if key != "type"}
            hosts[name] = HostSpec(name=name, type=kind, options=options, place=self.document.place(path))
        return hosts

    def data(self) -> dict[str, DataConfig]:
        sets = {}
        for name, given in self.mapping("data").items():
            path: Path_ = ("data", name)
            if not isinstance(given, dict):
                self.wrong(path, complaint(name, given, Mapping[str, Any]), f"write `{name}: {{files: ...}}`")
                continue
            if isinstance(given.get("files"), str):
                given = {**given, "files": [given["files"]]}  # noqa: PLW2901  # the same value, in its long form
            values, problems = coerce(DataConfig, given)
            for problem in problems:
                self.wrong((*path, problem.field), problem.what.replace("parameter", "key"), problem.hint)
            values["files"] = tuple(self.file(file) for file in values.get("files", ()))
            sets[name] = DataConfig(**values)
        return sets

    def file(self, name: str) -> str:
        return name if "://" in name or is_address(name) else str(self.folder / Path(name).expanduser())

    def entries(self, section: str) -> list[dict[str, Any]]:
        return [self.entry(section, name, given) for name, given in self.mapping(section).items()]

    def entry(self, section: str, name: str, given: Any) -> dict[str, Any]:
        path: Path_ = (section, name)
        if given is None:
            given = {}
        elif not isinstance(given, dict):
            self.wrong(path, complaint(name, given, Mapping[str, Any]), f"write `{name}: {{}}` for its defaults")
            given = {}
        elif section == "passes" and is_search(given) and isinstance(given["search"], list):
            given = {"type": "", **given}  # a choice between whole passes
        own = self.fitted({"type": name, **given}, _ENTRY[section], path)
        fields = {key: value for key, value in given.items() if key not in _ENTRY[section]}
        places = {key: self.document.place((*path, key)) for key in fields}
        for key, value in fields.items():  # and one level in: `training.max_steps`
            inner = value if isinstance(value, dict) else {}
            places |= {f"{key}.{name}": self.document.place((*path, key, name)) for name in inner}
        for key in FILES_OF_METRICS if section == "metrics" else ():
            if isinstance(fields.get(key), str):
                fields[key] = self.file(fields[key])
        for key in FOLDERS_OF_PASSES if section == "passes" else ():
            if isinstance(fields.get(key), dict):
                fields[key] = {
                    one: self.file(at) if isinstance(at, str) else at for one, at in fields[key].items()
                }
        return {
            "type": own.get("type", name),
            "name": name,
            "fields": fields,
            "place": self.document.place(path),
            "places": places,
            **({"host": own.get("host")} if section == "passes" else {}),
        }

    def data_places(self) -> dict[str, Place]:
        places = {}
        for name, given in self.mapping("data", again=True).items():
            places[name] = self.document.place(("data", name))
            for key in given if isinstance(given, dict) else ():
                places[f"{name}.{key}"] = self.document.place(("data", name, key))
        return places

    def all_places(self) -> dict[str, Place]:
        paths: list[Path_] = [(key,) for key in self.value]
        for section in ("model", "target", "hosts", "search", "register"):
            paths += [(section, key) for key in self.mapping(section, again=True)]
        return {".".join(map(str, path)): self.document.place(path) for path in paths}

    def mapping(self, key: str, *, again: bool = False) -> dict[str, Any]:
        """Return a section; an absent or empty one is an empty mapping. ``again``: its problem is known."""
        given = self.value.get(key)
        if isinstance(given, dict):
            return given
        if given is not None and not again:
            self.wrong((key,), complaint(key, given, Mapping[str, Any]))
        return {}

    def fitted(self, given: Mapping[str, Any], types: Mapping[str, Any], path: Path_) -> dict[str, Any]:
        """Return the values that are of their types; the others become problems."""
        values = {}
        for key, hint in types.items():
            if key not in given:
                continue
            fits, value = fit(hint, given[key])
            if fits and key in _COUNTS and value is not None and value < 1:
                self.wrong((*path, key), f"`{key}` is {value}; it must be at least 1", f"leave out `{key}`")
            elif fits:
                values[key] = value
            else:
                self.wrong((*path, key), complaint(key, given[key], hint), near_choice(given[key], hint))
        return values

    def only(self, given: Mapping[str, Any], known: tuple[str, ...], path: Path_) -> None:
        for key in given:
            if key not in known:
                inside = f" in `{path[-1]}`" if path else ""
                self.wrong((*path, key), f"unknown key `{key}`{inside}", nearest(key, known))

    def wrong(self, path: Path_, what: str, hint: str = "") -> None:
        dotted = ".".join(map(str, path))
        where = spot(self.document.place(path), step=self.entry_words(path), path=dotted)
        self.problems.append(Problem(where, what, hint))

    def entry_words(self, path: Path_) -> str:
        if len(path) < 2:
            return ""
        if path[0] == "passes":
            return f"step {list(self.value['passes']).index(path[1]) + 1} `{path[1]}`"
        titles = {"data": "data", "metrics": "metric", "hosts": "host"}
        return f"{titles[str(path[0])]} `{path[1]}`" if path[0] in titles else ""
