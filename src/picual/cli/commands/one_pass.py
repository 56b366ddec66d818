"""``picual finetune`` and ``merge``: one pass each, with its fields as options; and what verbs like them share."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from picual import api
from picual.cli import options, progress, render
from picual.passes import registry
from picual.recipe import yaml_text
from picual.recipe.fields import hints_of
from picual.space import fields_of

PREFIX = "field_"  # of the parameters that are fields of the pass


def verb(name: str, a_pass: str, summary: str, *, needs_data: bool = False) -> click.Command:
    """Return the command that runs one pass on MODEL."""
    kind = registry.load(a_pass)
    roles = {item.metadata.get("role") for item in fields_of(kind)}

    def body(**given: Any) -> None:
        fields = fields_given(given)
        data = options.data_of(given) if "data" in roles else {}
        if needs_data and not data:
            raise click.UsageError("give what to learn from: --data FILE")
        if data:
            fields["data"] = next(iter(data))
        if a_pass == "merge-adapter" and given["adapter"] is None and _is_plain(Path(given["model"])):
            raise click.UsageError(
                f"`{given['model']}` is no adapter: name the one to merge with --adapter FOLDER"
            )
        run_pass(a_pass, name, given, fields, data)

    command: Callable[..., Any] = body
    hints = hints_of(kind)
    for item in reversed(fields_of(kind)):
        command = _option(item, hints[item.name])(command)
    if "data" in roles:
        command = options.data_options(command)
    return click.command(name, help=summary)(options.model_options(options.output_option(command)))


def run_pass(
    a_pass: str, name: str, given: Mapping[str, Any], fields: Mapping[str, Any], data: Mapping[str, Any]
) -> None:
    """Run one pass for a verb and show what came of it.

    Args:
        a_pass: Name of the pass.
        name: Of the verb.
        given: The verb's parameters.
        fields: Of the pass.
        data: As in a recipe.
    """
    recipe = api.one_pass(
        a_pass, options.model_of(given), fields, data=data, output=str(given["output"] or f"picual-{name}")
    )
    recipe = dataclasses.replace(recipe, trust=given["trust"])
    outcome = api.run(recipe, store=given["store"], offline=given["offline"], listeners=progress.listeners())
    render.show_outcome(outcome.report, worked=outcome.result.worked, as_json=given["as_json"])


def fields_given(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the pass among the parameters of a verb."""
    return {
        key.removeprefix(PREFIX): value
        for key, value in given.items()
        if key.startswith(PREFIX) and value is not None
    }


def _option(item: dataclasses.Field[Any], hint: Any) -> Callable[..., Any]:
    """Return the option of one field; its text is read as a recipe's would be."""
    parameter, flag = PREFIX + item.name, f"--{item.name.replace('_', '-')}"
    match item.metadata.get("role"):
        case "data":
            return lambda command: command  # the data options stand for it
        case "training":
            return click.option(
                flag, parameter, multiple=True, metavar="KEY=VALUE", help=item.metadata["help"],
                callback=lambda _ctx, _parameter, pairs: dict(map(_pair, pairs)) or None,
            )  # fmt: skip
    return click.option(
        flag, parameter, metavar=_words(hint), help=item.metadata["help"],
        callback=lambda _ctx, _parameter, text: None if text is None else yaml_text.value_of(text),
    )  # fmt: skip


def _is_plain(folder: Path) -> bool:
    """Say whether a folder, or the output of a run, holds a model that is no adapter."""
    found = [place for place in (folder, folder / "model") if (place / "config.json").is_file()]
    return bool(found) and not (found[0] / "adapter_config.json").is_file()


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"`{text}` sets nothing: write KEY=VALUE, such as max_steps=10")
    return key, yaml_text.value_of(value)


def _words(hint: Any) -> str:
    """Return what may stand after an option."""
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(str(value) for value in typing.get_args(hint))
    kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind not in {type(None), Ellipsis}]
    if len(kinds) == 1 and kinds[0] is not hint:
        return _words(kinds[0]) + (",..." if typing.get_origin(hint) is tuple else "")
    return "|".join(str(getattr(kind, "__name__", kind)).upper() for kind in kinds)


finetune = verb(
    "finetune", "lora", "Fine-tune MODEL on data with LoRA; the result is an adapter.", needs_data=True
)
merge = verb("merge", "merge-adapter", "Merge MODEL, an adapter or a base with --adapter, into plain weights.")
