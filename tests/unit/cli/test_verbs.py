"""The verbs, in the process: a model goes from one to the next as a user would hand it on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from picual.cli.main import VERBS, group
from picual.errors import PicualError
from picual.testing.tiny import tiny_model


def picual(*words: str | Path, answers: str = "") -> Result:
    ended = CliRunner().invoke(group, [str(word) for word in words], input=answers)
    if ended.exception is not None and not isinstance(ended.exception, SystemExit | PicualError):
        raise ended.exception
    return ended


def leaves(command: click.Command, context: click.Context, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if not isinstance(command, click.Group):
        yield words
        return
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, context, (*words, name))


ALL = list(leaves(group, click.Context(group), ()))


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_verb_explains_itself_and_speaks_json(words: tuple[str, ...]) -> None:
    ended = picual(*words, "--help")

    assert ended.exit_code == 0
    assert "--json" in ended.output


def test_the_verbs_of_the_design_are_there() -> None:
    assert {
        "run",
        "plan",
        "check",
        "convert",
        "finetune",
        "merge",
        "export",
        "evaluate",
        "generate",
        "chat",
    } <= set(VERBS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which an adapter was trained, merged and exported, a verb each."""
    place = tmp_path_factory.mktemp("verbs")
    tiny_model(place / "tiny")
    (place / "rows.jsonl").write_text("".join(json.dumps({"text": f"row {n} of few"}) + "\n" for n in range(8)))
    store = ["--store", place / "store"]
    fields = ["--text", "text", "--rank", "4", "--dtype", "float32", "--training", "max_steps=1"]
    data = ["--data", place / "rows.jsonl"]
    for words in (
        ["finetune", place / "tiny", *data, *fields, "-o", place / "adapter", *store],
        ["merge", place / "adapter", "-o", place / "merged", *store],
        ["export", place / "merged", "--precision", "int4", "--block", "16", "-o", place / "int4", *store],
    ):
        ended = picual(*words)
        assert ended.exit_code == 0, ended.output
        assert "verified" in ended.stdout
    return place


def test_one_pass_verbs_hand_a_model_on(folder: Path) -> None:
    report = json.loads(picual("report", folder / "int4", "--json").stdout)

    assert report["verdict"] == "verified"
    assert [step["pass"] for step in report["steps"]] == ["build-genai"]
    assert "build-genai" in picual("report", folder / "int4").stdout


@pytest.mark.parametrize("kind", ["tiny", "adapter", "merged", "int4"])
def test_every_kind_of_model_answers(folder: Path, kind: str) -> None:
    ended = picual("generate", folder / kind, "hello", "--raw", "--max-new-tokens", "4", "--json")

    assert isinstance(json.loads(ended.stdout)["answer"], str)


def test_a_chat_goes_on_until_an_empty_line(folder: Path) -> None:
    ended = picual("chat", folder / "int4", "--max-new-tokens", "3", "--json", answers="hello\nand now\n\n")

    roles = [message["role"] for message in json.loads(ended.stdout)["messages"]]
    assert roles == ["user", "assistant", "user", "assistant"]


def test_metrics_of_a_model_without_a_recipe(folder: Path) -> None:
    words = ["evaluate", folder / "merged", "--metric", "perplexity", "--data", folder / "rows.jsonl"]
    fields = ["--text", "text", "--field", "perplexity.length=8", "--field", "perplexity.windows=2"]

    ended = picual(*words, *fields, "--metric", "size", "--store", folder / "store", "--json")

    values = json.loads(ended.stdout)
    assert values["perplexity"]["perplexity"] > 1
    assert values["size"]["size_mb"] > 0


def test_a_field_of_a_metric_that_was_not_asked_for_is_a_mistake(folder: Path) -> None:
    ended = picual("evaluate", folder / "merged", "--metric", "size", "--field", "latency.repeats=1")

    assert ended.exit_code == 2


def test_the_store_says_what_it_keeps_and_why_a_step_would_run(folder: Path) -> None:
    store = ["store", "--store", folder / "store"]
    recipe = folder / "recipe.json"
    fields = {"precision": "int4", "block": 32}
    written = {"version": 1, "model": str(folder / "merged" / "model"), "passes": {"build-genai": fields}}
    recipe.write_text(json.dumps(written))

    kept = json.loads(picual(*store, "ls", "--json").stdout)
    why = json.loads(picual(*store, "why", recipe, "--json").stdout)

    assert "pass lora" in {entry["label"] for entry in kept}
    assert why[0]["cached"] is False
    assert "block 16 -> 32" in why[0]["why"]
    assert len(json.loads(picual(*store, "verify", "--json").stdout)["whole"]) == len(kept)


def test_the_doctor_names_machine_providers_and_passes() -> None:
    found = json.loads(picual("doctor", "--json").stdout)

    assert "CPUExecutionProvider" in found["providers"]
    assert {part["pass"] for part in found["passes"]} >= {"lora", "merge-adapter", "build-genai"}
    assert picual("doctor").exit_code == 0


@pytest.mark.parametrize(("words", "told"), [
    (("finetune", "tiny"), "--data FILE"), (("merge", "tiny"), "--adapter FOLDER"),
    (("evaluate", "tiny", "--metric", "accuracy"), "--data FILE"),
    (("evaluate", "tiny", "--metric", "size=x"), "reads no file"),
    (("check",), "picual check RECIPE"),
    (("store", "prune", "--max-size", "10GBB"), "write 10GB"),
])  # fmt: skip
def test_what_is_missing_is_named_as_the_option_that_gives_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(folder)

    ended = picual(*words)

    assert ended.exit_code == 2
    assert told in ended.output


def test_integers_go_from_quantize_into_every_export(folder: Path) -> None:
    store = ("--store", folder / "store", "--json")
    made = folder / "quantized"
    asked = ("--effort", "fast", "--head", "int4", "--block", "16")
    rows = json.loads(picual("quantize", folder / "tiny", *asked, "--dry-run", "--json").output)
    assert picual("quantize", folder / "tiny", "-o", made, *asked, *store).exit_code == 0
    stored = json.loads((made / "model" / "quantization.json").read_text())["weights"]
    assert {name: f"int{how['bits']} block {how['block']}" for name, how in stored.items()} == {
        row["name"]: row["format"] for row in rows
    }

    assert picual("export", made / "model", "-o", folder / "genai", *store).exit_code == 0
    assert (folder / "genai" / "model" / "genai_config.json").is_file()
    ended = picual("export", made / "model", "-o", folder / "gptq", "--format", "gptq", *store)
    assert ended.exit_code == 0, (ended.exception, ended.output)
    config = json.loads((folder / "gptq" / "model" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "gptq"


def test_look_at_sizes_keeps_the_limit_and_says_that_it_is_one(folder: Path) -> None:
    asked = ("--effort", "fast", "--bits-per-weight", "6")
    told = picual("quantize", folder / "tiny", *asked, "--dry-run", "--json")
    rows = json.loads(told.stdout)
    assert sum(row["bytes"] for row in rows) <= 6 / 8 * sum(_weights(row["shape"]) for row in rows)
    assert "a run looks at text" in told.stderr
    assert "a run looks at text" not in picual("quantize", folder / "tiny", "--dry-run", "--json").stderr


def test_an_mlflow_folder_is_handed_out_whole_and_read_again(folder: Path) -> None:
    store, made = ("--store", folder / "store"), folder / "logged"
    ended = picual("export", folder / "tiny", "-o", made, "--format", "mlflow", *store)
    assert ended.exit_code == 0, (ended.exception, ended.output)
    assert (made / "model" / "MLmodel").is_file()
    assert "model/model.safetensors" in json.loads((made / "manifest.json").read_text())["files"]

    ended = picual("export", made, "-o", folder / "again", "--format", "mlflow", *store)
    assert ended.exit_code == 0, (ended.exception, ended.output)
    for name in ("MLmodel", "model/model.safetensors"):
        assert (folder / "again/model" / name).read_bytes() == (made / "model" / name).read_bytes()

    ended = picual("export", folder / "tiny", "--format", "mlflow", "--block", "32")
    assert "mlflow takes the checkpoint as it is" in ended.output


def test_field_of_another_format_is_a_mistake(folder: Path) -> None:
    ended = picual("export", folder / "tiny", "--format", "gptq", "--block", "32")
    assert ended.exit_code == 2
    assert "--block is for `--format genai`" in ended.output


def _weights(shape: str) -> int:
    height, width = shape.split(" x ")
    return int(height) * int(width)
