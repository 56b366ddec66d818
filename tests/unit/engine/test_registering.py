"""A run ends in a workspace: what is registered, what is not, and what the same command does after a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from loopback import faults
from loopback.cloud import Azure
from loopback.control import GROUP, SUBSCRIPTION, Workspace
from picual import __version__, api, fingerprint, report
from picual.cli.main import group
from picual.errors import Interrupted, NotMeasured, NotRegistered, NotVerified
from picual.executors.inline import InlineExecutor

Write = Callable[..., dict[str, Any]]


@pytest.fixture
def written(tiny_recipe: Write, workspace: Workspace) -> dict[str, Any]:
    """A recipe of one step that registers its result."""
    where = {"subscription_id": SUBSCRIPTION, "resource_group": GROUP, "workspace_name": workspace.name}
    return tiny_recipe() | {
        "passes": {"build-genai": {"precision": "int4"}},
        "register": {
            "name": "tone", "description": "tiny", "tags": {"team": "one"}, **where,
            "max_operation_retries": 1, "operation_retry_interval": 0,
        },
    }  # fmt: skip


def go(written: dict[str, Any], **options: Any) -> api.Outcome:
    return api.run(written, executor=InlineExecutor, **options)


def test_the_result_is_registered_with_where_it_came_from(
    written: dict[str, Any],
    workspace: Workspace,
    azure: Azure,
    tmp_path: Path,
) -> None:
    outcome = go(written)

    address = f"{workspace.address}/models/tone/versions/1"
    assert outcome.report["registered"] == {"name": "tone", "version": "1", "address": address, "new": True}
    jsonschema.validate(outcome.report, report.schema())
    kept = azure.client(workspace).models.get("tone", version="1")
    key = outcome.result.steps[-1].key
    assert kept.tags == {"team": "one", "picual_key": key}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert kept.properties == {
        "picual_key": key,
        "picual_version": __version__,
        "picual_source": written["model"],
        "picual_source_key": manifest["lineage"][0]["key"],
        "picual_step_1": f"build-genai (build-genai) {key}",
        "picual_recipe": fingerprint.digest(manifest["recipe"]),
        "picual_verified": "true",
    }
    fetched = api.fetch(address, options={"options": {"operation_retry_interval": 0}}, store=tmp_path / "other")
    assert {file.name: file.read_bytes() for file in fetched.iterdir()} == {
        file.name: file.read_bytes() for file in outcome.model.iterdir()
    }


def test_what_is_registered_is_told_wherever_the_report_is(written: dict[str, Any], tmp_path: Path) -> None:
    found = go(written).report["registered"]

    told = CliRunner().invoke(group, ["report", str(tmp_path / "out")]).output
    assert f"registered: tone:1 ({found['address']})" in told
    sentence = f"It is registered as `tone:1`, at `{found['address']}`."
    assert sentence in (tmp_path / "out" / "report.md").read_text()


def test_an_adapter_is_registered_as_it_lies_there_and_named_where_it_is_merged(
    written: dict[str, Any], tiny_recipe: Write, workspace: Workspace, azure: Azure, tmp_path: Path
) -> None:
    written["passes"] = {"lora": tiny_recipe()["passes"]["lora"]}

    outcome = go(written)

    azure.client(workspace).models.download("tone", "1", download_path=str(tmp_path / "back"))
    files = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    for name, facts in files.items():
        (back,) = (tmp_path / "back").rglob(name)
        assert back.read_bytes() == (outcome.model / name).read_bytes()
        assert facts["sha256"] == fingerprint.file_digest(back)

    merged = {
        **written,
        "model": {"uri": written["model"], "adapter": str(outcome.model)},
        "output": str(tmp_path / "m"),
    }
    go({**merged, "passes": {"merge-adapter": {}}})
    properties = azure.client(workspace).models.get("tone", version="2").properties
    assert (properties["picual_source"], properties["picual_adapter"]) == (written["model"], str(outcome.model))


def test_the_same_command_registers_nothing_again(
    written: dict[str, Any],
    workspace: Workspace,
    azure: Azure,
) -> None:
    go(written)
    azure.requests.clear()

    again = go(written)

    assert not again.result.worked
    assert again.report["registered"]["new"] is False
    assert [one for one in azure.requests if one.method == "PUT"] == []
    assert list(workspace.assets.versions["models"]["tone"]) == ["1"]


def test_registered_later_it_still_comes_from_the_recipe_that_made_it(
    written: dict[str, Any], workspace: Workspace, azure: Azure, tmp_path: Path
) -> None:
    go({**written, "register": None})
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())

    go(written)

    properties = azure.client(workspace).models.get("tone", version="1").properties
    assert properties["picual_recipe"] == fingerprint.digest(manifest["recipe"])


@pytest.mark.parametrize(("fault", "said", "hint"), [
    (faults.FORBIDDEN, "may not", "az login"),
    (faults.EXPIRED, "does not accept the credential", "az login"),
    (faults.UNAVAILABLE, "2 times in a row", "run the same command again"),
])  # fmt: skip
def test_a_refusal_leaves_the_model_and_the_same_command_only_registers(
    written: dict[str, Any], workspace: Workspace, azure: Azure, tmp_path: Path,
    fault: faults.Status, said: str, hint: str,
) -> None:  # fmt: skip
    azure.faults.plant("PUT", "models", *[fault] * 4)

    with pytest.raises(NotRegistered, match="verified and in its place, but not registered") as caught:
        go(written)

    assert caught.value.exit_code == 4
    assert said in caught.value.what
    assert hint in caught.value.hint
    assert caught.value.where == f"{workspace.address}/models/tone"
    refused = api.report(tmp_path / "out")
    assert (refused["verdict"], refused["registered"]) == ("NotRegistered", None)
    assert refused["model"] == str(tmp_path / "out" / "model")
    assert refused["best"]["size"]["size_mb"] > 0
    assert "The model is verified, but not registered" in (tmp_path / "out" / "report.md").read_text()
    assert workspace.assets.versions["models"] == {}

    azure.faults.clear()
    azure.requests.clear()
    again = go(written)

    assert all(step.cached for step in again.result.steps)
    assert again.report["registered"]["version"] == "1"
    assert [one.path for one in azure.requests if one.method == "PUT" and "/blobs/" in one.path] == []


def test_a_version_that_is_another_model_is_left_as_it_is(
    written: dict[str, Any],
    workspace: Workspace,
    tmp_path: Path,
) -> None:
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "config.json").write_text("{}")
    workspace.put_model("tone", "1", tmp_path / "earlier")
    written["register"]["version"] = "1"

    with pytest.raises(NotRegistered, match="has a version `1` already") as caught:
        go(written)

    assert "--set register.version=2" in caught.value.hint
    stored = workspace.assets.properties("models", "tone", "1")
    assert stored is not None
    assert stored["tags"] == {}
    assert (
        go({**written, "register": {**written["register"], "version": 2}}).report["registered"]["version"] == "2"
    )


def test_what_did_not_pass_is_never_registered(
    written: dict[str, Any],
    azure: Azure,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("picual.engine.work.Work.verify", _refuses)

    with pytest.raises(NotVerified):
        go(written)

    assert azure.requests == []


def _refuses(*_: Any) -> None:
    raise NotVerified("it says something else than before")


def test_what_was_not_measured_is_not_registered_yet(
    written: dict[str, Any],
    azure: Azure,
    tmp_path: Path,
) -> None:
    (tmp_path / "short.txt").write_text("few words")
    written["metrics"] = {"perplexity": {"file": str(tmp_path / "short.txt")}}

    with pytest.raises(NotMeasured):
        go(written)

    assert azure.requests == []
    assert go({**written, "metrics": {}}).report["registered"]["version"] == "1"


def test_offline_registers_nothing_and_says_what_would(
    written: dict[str, Any],
    azure: Azure,
    tmp_path: Path,
) -> None:
    with pytest.raises(NotRegistered, match="`--offline` forbids it") as caught:
        go(written, offline=True)

    assert "without `--offline`" in caught.value.hint
    assert (tmp_path / "out" / "model" / "genai_config.json").is_file()
    assert azure.requests == []


def test_ctrl_c_while_it_is_registered_ends_as_an_interruption(
    written: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("picual.sources.azure_container.OpenContainer.send", interrupted)
        with pytest.raises(Interrupted):
            go(written)

    assert api.report(tmp_path / "out")["model"] is not None
    assert go(written).report["registered"]["new"]


def test_check_and_plan_ask_nothing_of_azure(written: dict[str, Any], azure: Azure, tmp_path: Path) -> None:
    assert api.check(written) == []
    a_plan = api.plan(written, store=tmp_path / "store")
    assert a_plan.registry is not None
    (tmp_path / "recipe.yaml").write_text(json.dumps(written))
    told = CliRunner().invoke(group, ["plan", str(tmp_path / "recipe.yaml")]).output
    assert f"then it is registered as tone in the workspace {written['register']['workspace_name']}\n" in told
    assert api.obstacles(a_plan, store=tmp_path / "store", output=tmp_path / "out") == []

    assert azure.requests == []
