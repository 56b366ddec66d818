from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from picual.errors import BadValue, UnknownName
from picual.hardware import Target
from picual.recipe.load import Overrides, dialect_of, load
from picual.recipe.schema import Recipe

FULL = """\
version: 1
model: {path: models/phi, layout: phi3, adapter: adapters/a}
target: {device: gpu, provider: CUDAExecutionProvider, memory: 8GB}
host: cloud
hosts:
  cloud: {type: azureml, compute: big}
data:
  tone: {files: tone.jsonl, template: "{phrase}", max_length: 64, holdout: 0.3}
  other: {files: [a.json, /b.json], text: x}
passes:
  lora: {data: tone, rank: 8, training: {max_steps: 150, learning_rate: 1e-4}, host: local}
  merge-adapter:
  small: {type: build-genai, precision: int4}
metrics:
  accuracy: {data: tone}
  size:
seed: 7
output: made
log: debug
"""


def loaded(tmp_path: Path, text: str = FULL, **options: Any) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load(path, **options)


def test_every_part_of_a_native_recipe_lands_in_its_field(tmp_path: Path) -> None:
    recipe = loaded(tmp_path)

    assert recipe.problems == ()
    assert (recipe.model.uri, recipe.model.adapter) == ("models/phi", "adapters/a")
    assert recipe.model.options == {"layout": "phi3"}
    assert recipe.target == Target(device="gpu", provider="CUDAExecutionProvider", memory=8_000_000_000)
    assert recipe.hosts["cloud"].type == "azureml"
    assert recipe.hosts["cloud"].options == {"compute": "big"}
    assert recipe.data["tone"].files == (str(tmp_path / "tone.jsonl"),)
    assert recipe.data["other"].files == (str(tmp_path / "a.json"), "/b.json")
    assert recipe.data["tone"].max_length == 64
    assert [(step.name, step.type, step.host) for step in recipe.steps] == [
        ("lora", "lora", "local"),
        ("merge-adapter", "merge-adapter", None),
        ("small", "build-genai", None),
    ]
    assert recipe.steps[0].fields["training"] == {"max_steps": 150, "learning_rate": 1e-4}
    assert recipe.steps[2].fields == {"precision": "int4"}
    assert [metric.type for metric in recipe.metrics] == ["accuracy", "size"]
    assert (recipe.seed, recipe.output, recipe.log_level, recipe.host) == (7, "made", "debug", "cloud")
    assert recipe.folder == str(tmp_path)


def test_every_part_knows_its_line(tmp_path: Path) -> None:
    recipe = loaded(tmp_path)

    assert recipe.model.place.line == 2
    assert recipe.places["target.provider"].line == 3
    assert recipe.data_places["other"].line == 9
    assert recipe.steps[2].place.line == 13
    assert recipe.steps[0].places["rank"].line == 11
    assert recipe.metrics[1].place.line == 16
    assert recipe.hosts["cloud"].place.line == 6


def test_a_setting_replaces_one_value_and_is_named_as_its_place(tmp_path: Path) -> None:
    settings = [
        "passes.lora.training.max_steps=10",
        "passes.lora.modules=[q_proj, v_proj]",
        "passes.merge-adapter.dtype=float32",
        "data.tone.max_length=128",
        "seed=1",
        "target.threads=2",
        "model.revision=main",
        "passes.lora.training.learning_rate=2e-5",
    ]

    recipe = loaded(tmp_path, settings=settings)

    assert recipe.problems == ()
    assert recipe.steps[0].fields["training"] == {"max_steps": 10, "learning_rate": 2e-5}
    assert recipe.steps[0].fields["modules"] == ["q_proj", "v_proj"]
    assert recipe.steps[0].fields["rank"] == 8
    assert recipe.steps[1].fields == {"dtype": "float32"}
    assert recipe.data["tone"].max_length == 128
    assert recipe.data["tone"].holdout == 0.3
    assert recipe.data["tone"].files == (str(tmp_path / "tone.jsonl"),)
    assert (recipe.seed, recipe.target.threads, recipe.target.device) == (1, 2, "gpu")
    assert (recipe.model.uri, recipe.model.revision) == ("models/phi", "main")
    assert str(recipe.steps[0].places["modules"]) == "--set passes.lora.modules=[q_proj, v_proj]"
    assert recipe.steps[0].places["rank"].line == 11


def test_a_setting_reaches_into_a_model_given_as_one_word(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, "version: 1\nmodel: owner/name\n", settings=["model.revision=abc"])

    assert (recipe.model.uri, recipe.model.revision) == ("owner/name", "abc")


def test_a_setting_may_add_a_metric_but_no_step(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, settings=["metrics.size={}"])

    assert "size" in [metric.name for metric in recipe.metrics]
    with pytest.raises(UnknownName):
        loaded(tmp_path, settings=["passes.more={}"])


def test_a_setting_of_the_wrong_type_is_a_problem_at_the_setting(tmp_path: Path) -> None:
    (problem,) = loaded(tmp_path, settings=["data.tone.max_length=long"]).problems

    assert problem.where == "`--set data.tone.max_length=long`, data `tone`"
    assert problem.what == '`max_length` is "long"; it must be a whole number'


@pytest.mark.parametrize(
    ("setting", "kind", "what", "hint"),
    [
        ("passes.lor.rank=8", UnknownName, "no `passes.lor`", "did you mean `lora`?"),
        ("data.tune.holdout=0", UnknownName, "no `data.tune`", "did you mean `tone`?"),
        ("pases.lora.rank=8", UnknownName, "`pases` is not a part of a recipe", "did you mean `passes`?"),
        ("passes.lora.rank", BadValue, "sets nothing", "--set passes.lora.rank=8"),
        ("passes.lora.rank.x=1", BadValue, "`passes.lora.rank` has no parts to set", "--set passes.lora.rank=..."),
        ("seed=[1", BadValue, "is not a value", "quote"),
    ],
)
def test_a_setting_that_cannot_be_applied_says_what_was_meant(
    tmp_path: Path, setting: str, kind: type[BadValue], what: str, hint: str
) -> None:
    with pytest.raises(kind) as caught:
        loaded(tmp_path, settings=[setting])

    assert what in caught.value.what
    assert hint in caught.value.hint
    assert caught.value.where == f"--set {setting}"


def test_a_step_whose_name_holds_a_dot_can_be_set(tmp_path: Path) -> None:
    text = "version: 1\nmodel: a/b\npasses: {v1: {type: lora}, v1.5: {type: lora}}\n"

    recipe = loaded(tmp_path, text, settings=["passes.v1.5.rank=3", "passes.v1.rank=2"])

    assert [step.fields for step in recipe.steps] == [{"rank": 2}, {"rank": 3}]


def test_local_replaces_host_and_target_and_says_what_it_replaced(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, overrides=Overrides(host="local", target="local"), settings=["target.threads=2"])

    assert recipe.target == Target(threads=2)
    assert recipe.host == "local"
    assert [(note.path, note.kind) for note in recipe.notes] == [("host", "replaced"), ("target", "replaced")]
    assert "cloud (azureml) is replaced by local (`--host local`)" in recipe.notes[0].text
    assert "gpu with CUDAExecutionProvider" in recipe.notes[1].text


def test_local_replaces_the_host_of_a_single_step_too(tmp_path: Path) -> None:
    text = FULL.replace("merge-adapter:", "merge-adapter: {host: cloud}")

    recipe = loaded(tmp_path, text, overrides=Overrides(host="local"))

    assert [step.host for step in recipe.steps] == ["local", None, None]
    assert [note.path for note in recipe.notes] == ["host", "passes.merge-adapter.host"]


def test_nothing_is_noted_when_local_is_what_the_recipe_says(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, "version: 1\nmodel: a/b\n", overrides=Overrides(host="local", target="local"))

    assert recipe.notes == ()


def test_the_command_lines_model_replaces_source_adapter_and_trust(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here/phi").mkdir()
    text = FULL.replace("layout: phi3", "trust_remote_code: true")

    recipe = loaded(tmp_path, text, overrides=Overrides(model="phi"))

    assert recipe.model.uri == str(tmp_path / "here/phi")
    assert recipe.model.adapter is None
    assert recipe.model.trust_remote_code is False
    assert recipe.trust is False
    assert recipe.notes[0].text == "models/phi is replaced by phi (`--model phi`)"


def test_a_hub_id_of_the_command_line_stays_one(tmp_path: Path) -> None:
    assert loaded(tmp_path, overrides=Overrides(model="owner/name")).model.uri == "owner/name"


def test_output_store_and_trust_of_the_command_line_win(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = loaded(tmp_path, overrides=Overrides(output="o", store="s", trust=True))

    assert (recipe.output, recipe.store, recipe.trust) == (str(tmp_path / "o"), str(tmp_path / "s"), True)


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        (Overrides(host="clod"), "`cloud`"),
        (Overrides(target="CUDAExecutionProvidr"), "`CUDAExecutionProvider`"),
    ],
)
def test_an_unknown_host_or_target_of_the_command_line_names_the_nearest(
    tmp_path: Path, overrides: Overrides, hint: str
) -> None:
    with pytest.raises(UnknownName, match=r"host|target") as caught:
        loaded(tmp_path, overrides=overrides)

    assert hint in caught.value.hint


def test_a_target_can_be_a_provider(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, overrides=Overrides(target="QNNExecutionProvider"))

    assert (recipe.target.device, recipe.target.provider) == ("npu", "QNNExecutionProvider")


def test_changes_leave_the_file_and_the_unchanged_recipe_alone(tmp_path: Path) -> None:
    plain = loaded(tmp_path)
    source = {"version": 1, "model": "a/b", "passes": {"lora": {"rank": 1}}}

    load(source, settings=["passes.lora.rank=2"])

    assert source["passes"] == {"lora": {"rank": 1}}
    assert loaded(tmp_path, settings=["seed=7"]).steps == plain.steps
    assert dataclasses.replace(loaded(tmp_path, settings=["seed=7"]), places={}) == dataclasses.replace(
        plain, places={}
    )


@pytest.mark.parametrize(
    ("value", "dialect"),
    [
        ({"version": 1, "model": "x"}, "picual"),
        ({"model": "x", "passes": {"lora": {}}}, "picual"),
        ({"input_model": {"type": "HfModel"}}, "olive"),
        ({"passes": {"lora": {"type": "LoRA"}}}, "olive"),
        ({"systems": {}, "passes": {}}, "olive"),
        ({"passes": {"lora": {"type": "lora"}}}, "picual"),
        ({"version": 1, "passes": {"lora": {"type": "LoRA"}}}, "picual"),
        ({}, "picual"),
    ],
)
def test_the_dialect_shows_in_the_names(value: dict[str, Any], dialect: str) -> None:
    assert dialect_of(value) == dialect
