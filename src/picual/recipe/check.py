"""Every mistake of a recipe at once, before anything runs: nothing heavy is imported, nothing is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from picual.data.files import are_small
from picual.errors import BadValue, Problem, RecipeError, RecipeProblems, UnknownName, nearest
from picual.hardware import PROVIDERS
from picual.metrics import registry as metric_registry
from picual.metrics.asking import Asking
from picual.metrics.base import Metric
from picual.passes import registry as pass_registry
from picual.passes.finetune import training_arguments
from picual.recipe.check_adapters import adapter_problems
from picual.recipe.check_data import data_problems, template_problem
from picual.recipe.check_model import input_kind, model_problems
from picual.recipe.check_search import search_problems, single_recipes
from picual.recipe.check_secrets import secret_problems
from picual.recipe.fields import FieldProblem, coerce
from picual.recipe.hosting import host_problems
from picual.recipe.order import misfits
from picual.recipe.paths import named, near_files
from picual.recipe.placeholders import placeholder_in
from picual.recipe.registering import register_problems
from picual.recipe.schema import UNKNOWN_SYSTEM, MetricSpec, Place, Recipe, StepSpec
from picual.recipe.spots import in_file_order, spot, step_words

_ROW_TEMPLATES = ("expect", "prompt")  # fields of a metric that name columns of its data


def check(recipe: Recipe) -> list[Problem]:
    """Return everything that is wrong in a recipe, in the order of the file; of this machine it asks nothing."""
    problems = list(recipe.problems)
    problems += model_problems(recipe)
    problems += _target_problems(recipe)
    problems += secret_problems(recipe)
    problems += host_problems(recipe)
    problems += register_problems(recipe)
    wrong_data = data_problems(recipe, only=_data_in_use(recipe) if recipe.dialect == "olive" else None)
    problems += wrong_data
    problems += search_problems(recipe)
    for one in single_recipes(recipe):
        problems += [problem for problem in _step_problems(one) + _order_problems(one) if problem not in problems]
    wrong_metrics = _metric_problems(recipe)
    problems += wrong_metrics or ([] if wrong_data else _row_problems(recipe))
    if not recipe.steps and not recipe.metrics and not recipe.problems:
        problems.append(Problem("recipe", "there is nothing to do: no `passes` and no `metrics`"))
    return in_file_order(problems)


def require(recipe: Recipe) -> None:
    """Raise ``RecipeProblems`` with all mistakes of a recipe, if it has any."""
    problems = check(recipe)
    if problems:
        raise RecipeProblems(recipe.file or "the recipe", problems)


def require_readable(recipe: Recipe) -> None:
    """Raise ``RecipeProblems`` with what of the file could not be read: what is left of it says something else."""
    if recipe.problems:
        raise RecipeProblems(recipe.file or "the recipe", in_file_order(recipe.problems))


def _target_problems(recipe: Recipe) -> list[Problem]:
    provider = recipe.target.provider
    place = recipe.places.get("target.provider") or recipe.places.get("target") or Place(file=recipe.file)
    where = spot(place, path="target.provider")
    if provider in PROVIDERS:
        return []
    if found := placeholder_in(provider):
        return [_left_in(where, "provider", found)]
    if UNKNOWN_SYSTEM in recipe.places:
        hint = nearest(provider, list(recipe.hosts)) or "`--target local` takes this machine"
        return [Problem(where, f"unknown system `{provider}`", hint)]
    hint = nearest(provider, list(PROVIDERS)) or "`picual doctor` lists the providers of this machine"
    return [Problem(where, f"unknown execution provider `{provider}`", hint)]


def _data_in_use(recipe: Recipe) -> set[str]:
    """Return the names of the data sets that a step or a metric names."""
    named = set()
    entries: list[StepSpec | MetricSpec] = [*recipe.steps, *recipe.metrics]
    for entry in entries:
        kind = _kind_of(entry)
        for item in dataclasses.fields(kind) if kind is not None else ():
            value = entry.fields.get(item.name)
            if item.metadata.get("role") == "data" and isinstance(value, str):
                named.add(value)
    return named


def _kind_of(entry: StepSpec | MetricSpec) -> type[Any] | None:
    try:
        if isinstance(entry, StepSpec):
            return pass_registry.load(entry.type)
        return metric_registry.load(entry.type)
    except UnknownName:
        return None


def _step_problems(recipe: Recipe) -> list[Problem]:
    names = pass_registry.names()
    found = [_problems_of(recipe, step, "pass", step_words(recipe, step), names) for step in recipe.steps]
    return [problem for problems in found for problem in problems]


def _metric_problems(recipe: Recipe) -> list[Problem]:
    names = metric_registry.names()
    found = [_problems_of(recipe, one, "metric", f"metric `{one.name}`", names) for one in recipe.metrics]
    return [problem for problems in found for problem in problems]


def _problems_of(
    recipe: Recipe, entry: StepSpec | MetricSpec, sort: str, title: str, names: list[str]
) -> list[Problem]:
    kind = _kind_of(entry)
    if kind is None:
        place = entry.places.get("type", entry.place)
        what, hint = f"unknown {sort} `{entry.type}`", nearest(entry.type, names)
        if recipe.dialect == "olive" and entry.type[:1].isupper():
            listed = "passes list" if sort == "pass" else "schema"
            what = f"the {sort} `{entry.type}` of Olive has no counterpart in this version"
            hint = f"leave it out, or see what there is: `picual {listed}`"
        return [Problem(spot(place, step=title), what, hint)]
    values, found = coerce(kind, entry.fields)
    found += _values_problems(recipe, kind, values, entry.fields)
    found += _template_problems(recipe, entry, values)
    found += _absent_data(recipe, kind, entry.fields)
    found += _missing_file(recipe, entry)
    if not found:
        found += _unknown_answer(recipe, kind, values) or _building_problems(kind, values)
    if not found and not recipe.trust and issubclass(kind, Metric):
        found += _untrusted_code(kind, values)
    return [Problem(spot(_place_of(entry, one.field), step=title), one.what, one.hint) for one in found]


def _place_of(entry: StepSpec | MetricSpec, field: str) -> Place:
    return entry.places.get(field) or entry.places.get(field.split(".", maxsplit=1)[0]) or entry.place


def _absent_data(recipe: Recipe, kind: type[Any], given: Mapping[str, Any]) -> list[FieldProblem]:
    """Ask for the data set of a metric that can take its text from nothing else, and of a pass that trains."""
    fields = {item.name: item.metadata.get("role") for item in dataclasses.fields(kind)}
    data = next((name for name, role in fields.items() if role == "data"), None)
    trains = "training" in fields.values()
    if data is None or not (trains or (issubclass(kind, Metric) and kind.needs_data)):
        return []
    if "file" in fields:
        return _one_text(recipe, data, given, may_lack=issubclass(kind, Metric) and kind.has_text)
    if given.get(data) is not None:
        return []
    names = list(recipe.data)
    hint = f"`{data}: {names[0]}`" if names else f"`{data}` names a data set of the recipe: `data: {{NAME: ...}}`"
    return [FieldProblem(data, f"`{data}` is missing", hint)]


def _one_text(recipe: Recipe, data: str, given: Mapping[str, Any], *, may_lack: bool) -> list[FieldProblem]:
    """Ask for one text where a metric reads a data set or a file."""
    named = [name for name in (data, "file") if given.get(name) is not None]
    if len(named) == 1 or (may_lack and not named):
        return []
    if named:
        return [FieldProblem("file", f"`{data}` and `file` both say what is read", f"keep `{data}` or `file`")]
    names = list(recipe.data)
    return [
        FieldProblem(data, "there is no text to read", f"`{data}: {names[0]}`" if names else "`file: TEXT.txt`")
    ]


def _missing_file(recipe: Recipe, entry: StepSpec | MetricSpec) -> list[FieldProblem]:
    """Look for the text file that a metric reads."""
    file = entry.fields.get("file")
    if not isinstance(entry, MetricSpec) or not isinstance(file, str) or Path(file).is_file():
        return []
    folder = Path(recipe.folder)
    return [
        FieldProblem("file", f"there is no file `{named(Path(file), folder)}`", near_files(Path(file), folder))
    ]


def _values_problems(
    recipe: Recipe, kind: type[Any], values: Mapping[str, Any], given: Mapping[str, Any]
) -> list[FieldProblem]:
    found = []
    for item in dataclasses.fields(kind):
        value = values.get(item.name)
        role = item.metadata.get("role")
        if item.name not in given or value is None:
            continue
        if role == "data" and isinstance(value, str) and value not in recipe.data:
            hint = nearest(value, list(recipe.data)) or f"define it: `data: {{{value}: {{files: ...}}}}`"
            found.append(FieldProblem(item.name, f"unknown data set `{value}`", hint))
        elif role != "text" and (left := placeholder_in(value)):
            found.append(FieldProblem(item.name, f"`{item.name}` still holds the placeholder `{left}`"))
        elif role == "training" and isinstance(value, Mapping):
            found += _training_problems(item.name, value)
        elif role == "adapters" and isinstance(value, Mapping):
            found += _adapter_problems(recipe, item.name, value)
    return found


def _adapter_problems(recipe: Recipe, field: str, folders: Mapping[str, Any]) -> list[FieldProblem]:
    """Look for the adapters that a pass reads."""
    found = []
    for name, folder in folders.items():
        if isinstance(folder, str) and (Path(folder) / "adapter_config.json").is_file():
            continue
        shown = named(Path(folder), Path(recipe.folder)) if isinstance(folder, str) else folder
        hint = "give a folder that peft's `save_pretrained` made, such as `OUT/model` of a run of `lora`"
        found.append(FieldProblem(f"{field}.{name}", f"adapter `{name}`: there is none in `{shown}`", hint))
    return found


def _building_problems(kind: type[Any], values: Mapping[str, Any]) -> list[FieldProblem]:
    """Let a pass or metric refuse values that fit their types but not each other."""
    try:
        kind(**values)
    except RecipeError as error:
        field = next((name for name in values if f"`{name}`" in error.what), "")
        return [FieldProblem(field, error.what, error.hint)]
    return []


def _row_problems(recipe: Recipe) -> list[Problem]:
    """Let metrics of answers look at their rows, where these are here and few: is there a row of each label?"""
    problems = []
    for entry in recipe.metrics:
        kind = _kind_of(entry)
        if kind is None or not issubclass(kind, Asking):
            continue
        metric = kind(**coerce(kind, entry.fields)[0])
        config = recipe.data.get(str(metric.data))
        if config is None or not are_small(config):
            continue
        try:
            metric.rows_and_classes(config)
        except BadValue as error:
            field = next((name for name in ("labels", "by", "split") if f"`{name}`" in error.what), "data")
            where = spot(_place_of(entry, field), step=f"metric `{entry.name}`")
            problems.append(Problem(where, error.what, error.hint))
    return problems


def _untrusted_code(kind: type[Metric], values: Mapping[str, Any]) -> list[FieldProblem]:
    """Refuse code of the user's that nobody said may run."""
    file = kind(**values).user_code()
    if file is None:
        return []
    return [FieldProblem("code", f"`{file}` is code, and it runs only when it is trusted", "add `--trust`")]


def _training_problems(name: str, value: Mapping[str, Any]) -> list[FieldProblem]:
    found = training_arguments.problems(value)
    return [FieldProblem(f"{name}.{argument}", what, hint) for argument, what, hint in found]


def _template_problems(
    recipe: Recipe, entry: StepSpec | MetricSpec, values: Mapping[str, Any]
) -> list[FieldProblem]:
    """Check the templates of a metric against the rows it asks."""
    config = recipe.data.get(str(values.get("data")))
    if config is None or not isinstance(entry, MetricSpec):
        return []
    templates = {name: values[name] for name in _ROW_TEMPLATES if isinstance(values.get(name), str)}
    found = {name: template_problem(config, template) for name, template in templates.items()}
    return [FieldProblem(name, f"`{name}`: {one[0]}", one[1]) for name, one in found.items() if one is not None]


def _unknown_answer(recipe: Recipe, kind: type[Any], values: Mapping[str, Any]) -> list[FieldProblem]:
    """Ask for the answer that accuracy compares with, where neither the metric nor the data say it."""
    config = recipe.data.get(str(values.get("data")))
    if not issubclass(kind, Asking) or config is None or values.get("expect") or config.response or config.chat:
        return []
    return [
        FieldProblem("expect", "the expected answer is not known", '`expect: "{column}"`, a column of the data')
    ]


def _order_problems(recipe: Recipe) -> list[Problem]:
    names = [step.name for step in recipe.steps]
    kinds = [_kind_of(step) for step in recipe.steps]
    wrong = [
        Problem(
            spot(recipe.steps[one.index].place, step=step_words(recipe, recipe.steps[one.index])),
            one.what,
            one.hint,
        )
        for one in misfits(input_kind(recipe), names, kinds)
    ]
    return [*wrong, *adapter_problems(recipe)]


def _left_in(where: str, name: str, found: str) -> Problem:
    return Problem(where, f"`{name}` still holds the placeholder `{found}`", f"replace `{found}`")
