"""Runs that go on without their terminal, and those that were left: asked after, stopped, gone on with."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from picual import api
from picual.errors import BadValue
from picual.testing.tiny import tiny_model

PICUAL = [sys.executable, "-m", "picual.cli.main"]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"line {n} of the data set"}) + "\n" for n in range(12)))
    model = tiny_model(tmp_path / "model")
    training = {"max_steps": 200, "save_steps": 40}
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({
        "version": 1, "model": str(model.path), "output": "out", "store": "store", "threads": 1,
        "data": {"rows": {"files": "rows.jsonl", "text": "text", "max_length": 64}},
        "passes": {"lora": {"data": "rows", "rank": 4, "dtype": "float32", "training": training}},
    }))  # fmt: skip
    return file


def picual(*words: str, code: int = 0) -> str:
    ended = subprocess.run([*PICUAL, *words], capture_output=True, text=True, check=False)
    assert ended.returncode == code, ended.stderr
    return ended.stdout + ended.stderr


def killed(recipe: Path, **variables: str) -> None:
    """Start a run and kill its driver while it trains."""
    told = {"stderr": subprocess.DEVNULL, "cwd": recipe.parent, "env": {**os.environ, **variables}}
    driver = subprocess.Popen([*PICUAL, "run", str(recipe)], **told)
    wait_until_trains(recipe.parent / "out")
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()


def wait_until_trains(output: Path) -> None:
    while "lora" not in api.standing(output).progress if (output / "run" / "events.jsonl").exists() else True:
        time.sleep(0.05)


def wait_until_ended(output: Path) -> api.driver.Standing:
    while (found := api.standing(output)).state == "running":
        time.sleep(0.05)
    return found


def test_a_detached_run_is_asked_after_and_stopped(recipe: Path) -> None:
    output = recipe.parent / "out"

    said = picual(
        "run", str(recipe), "--detach", "--set", "passes.lora.training.max_steps=100000"
    )  # to be stopped
    at_once = picual("runs", "status", str(output))
    wait_until_trains(output)

    assert "running: " in at_once
    assert str(output) in said
    assert "running: step 1 of 1 `lora`" in picual("runs", "status", str(output))
    assert "step" in json.loads(picual("runs", "status", str(output), "--json"))
    picual("runs", "cancel", str(output))
    ended = wait_until_ended(output)
    assert (ended.state, ended.verdict) == ("ended", "Interrupted")
    assert "nothing drives" in picual("runs", "cancel", str(output), code=2)
    assert "driver.log" in picual("runs", "logs", str(output))


def test_a_run_whose_driver_was_killed_is_gone_on_with(recipe: Path) -> None:
    output = recipe.parent / "out"
    killed(recipe)

    assert "its driver is gone" in picual("runs", "status", str(output))
    picual("runs", "fetch", str(output))

    assert api.standing(output).verdict == "verified"
    with pytest.raises(BadValue, match="there is no run"):
        api.standing(recipe.parent)


def test_a_driver_that_left_no_command_is_not_said_to_be_fetched(tmp_path: Path) -> None:
    output = tmp_path / "my out"
    events = output / "run" / "events.jsonl"
    events.parent.mkdir(parents=True)
    start = {"event": "run", "status": "start", "steps": ["rtn"]}
    events.write_text(json.dumps(start) + "\n")

    status = picual("runs", "status", str(output))
    fetch = picual("runs", "fetch", str(output), code=2)

    for said in (status, fetch):
        assert "the same `picual run` command again goes on with it" in said
        assert "picual runs fetch" not in said
    assert "left no word of its command" in fetch

    events.write_text("".join(json.dumps(start | {"status": one}) + "\n" for one in ("start", "verified")))
    fetch = picual("runs", "fetch", str(output), code=2)
    assert "has ended (verified)" in fetch
    assert f"hint: picual runs status '{output}'\n" in fetch


def test_the_line_that_goes_on_with_a_run_stands_alone_and_can_be_pasted(tmp_path: Path) -> None:
    output = tmp_path / "my out"
    (output / "run").mkdir(parents=True)
    (output / "run" / "events.jsonl").write_text('{"event": "run", "status": "start", "steps": []}\n')
    driver = {
        "pid": 1,
        "began": 0.0,
        "command": [sys.executable, "-c", "print('gone on')"],
        "folder": str(tmp_path),
    }
    (output / "run" / "driver.json").write_text(json.dumps(driver))

    line = next(one for one in picual("runs", "status", str(output)).splitlines() if "runs fetch" in one)

    command = line.replace("picual", shlex.join(PICUAL), 1)
    pasted = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert pasted.stdout == "gone on\n", pasted.stderr


def test_it_is_gone_on_with_in_the_store_it_began_in(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = json.loads(recipe.read_text())
    del written["store"]
    recipe.write_text(json.dumps(written))
    killed(recipe, PICUAL_STORE=str(recipe.parent / "first"))
    monkeypatch.setenv("PICUAL_STORE", str(recipe.parent / "second"))

    picual("runs", "fetch", str(recipe.parent / "out"))

    assert [run["verdict"] for run in api.runs(recipe.parent / "first")] == ["verified"]
    assert not (recipe.parent / "second").exists()


def test_a_mistake_is_told_before_the_terminal_is_let_go(recipe: Path) -> None:
    said = picual("run", str(recipe), "--set", "passes.lora.rnk=4", "--detach", code=2)

    assert "unknown parameter `rnk`" in said
    assert not (recipe.parent / "out").exists()


def test_a_driver_that_is_asked_to_terminate_ends_in_order(recipe: Path) -> None:
    output = recipe.parent / "out"
    driver = subprocess.Popen([*PICUAL, "run", str(recipe), "--set", "passes.lora.training.max_steps=100000"],
                              stderr=subprocess.DEVNULL, cwd=recipe.parent)  # fmt: skip
    wait_until_trains(output)

    driver.terminate()

    assert driver.wait() == 130
    standing = api.standing(output)
    assert (standing.state, standing.verdict) == ("ended", "Interrupted")
    assert api.report(output)["verdict"] == "Interrupted"


def test_a_detached_run_is_told_as_json(recipe: Path) -> None:
    command = [*PICUAL, "run", str(recipe), "--detach", "--json"]
    command += ["-o", str(recipe.parent / "my out"), "--set", "passes.lora.training.max_steps=100000"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    output = recipe.parent / "my out"

    told = json.loads(said.stdout)

    assert f"\n  picual runs status '{output}'\n" in said.stderr
    assert told["output"] == str(output)
    assert told["pid"] == json.loads((output / "run" / "driver.json").read_text())["pid"]
    picual("runs", "cancel", str(output))
    wait_until_ended(output)


def test_what_stops_a_run_before_its_first_step_is_known_of_it(recipe: Path) -> None:
    (recipe.parent / "lock.txt").write_text("./no-such-package\n")
    hosts = {"made": {"type": "environment", "requirements": "lock.txt", "inherit": True}}
    recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"host": "made", "hosts": hosts}))
    output = recipe.parent / "out"

    picual("run", str(recipe), "--detach")
    ended = wait_until_ended(output)

    assert (ended.state, ended.verdict) == ("ended", "EnvironmentFault")
    assert "the environment could not be made" in picual("runs", "logs", str(output))


def test_a_detached_driver_that_ends_before_it_is_known_says_why(tmp_path: Path) -> None:
    """The recipe comes through a pipe that only the first process has."""
    model = str(tiny_model(tmp_path / "model").path)
    places = {"output": str(tmp_path / "out"), "store": str(tmp_path / "store")}
    written = json.dumps({"version": 1, "model": model, "passes": {"rtn": {}}, **places})

    command = [*PICUAL, "run", "/dev/stdin", "--detach"]
    ended = subprocess.run(command, input=written, capture_output=True, text=True, check=False)

    assert ended.returncode == 2, ended.stderr
    assert "error: /dev/stdin is empty" in ended.stderr
    assert ended.stdout == ""


def test_two_drivers_do_not_write_into_one_folder(recipe: Path) -> None:
    output = recipe.parent / "out"
    picual("run", str(recipe), "--detach", "--set", "passes.lora.training.max_steps=100000")
    first = json.loads((output / "run" / "driver.json").read_text())

    said = picual("run", str(recipe), "--store", str(recipe.parent / "other"), code=5)

    assert f"pid {first['pid']} drives a run in this folder" in said
    assert json.loads((output / "run" / "driver.json").read_text()) == first
    picual("runs", "cancel", str(output))
    assert wait_until_ended(output).verdict == "Interrupted"
