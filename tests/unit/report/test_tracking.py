"""A report sent to MLflow: the real client and a store on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from picual.errors import EnvironmentFault
from picual.report.tracking import EXPERIMENT, track
from picual.testing.sample_report import sample_report


@pytest.fixture(autouse=True)
def _file_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # MLflow's own, of its file store
def test_a_report_becomes_a_run_and_each_trial_one_below_it(tmp_path: Path) -> None:
    report = {**sample_report(), "output": str(tmp_path / "out")}
    (tmp_path / "out").mkdir()
    (tmp_path / "out/report.json").write_text(json.dumps(report))
    uri = (tmp_path / "mlruns").as_uri()

    run_id = track(report, uri)

    client = MlflowClient(tracking_uri=uri)
    found = client.get_run(run_id)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    below = [run for run in client.search_runs([experiment.experiment_id]) if run.info.run_id != run_id]
    size = report["best"]["size"]["size_mb"]
    assert found.data.metrics["best.size.size_mb"] == pytest.approx(size)
    assert found.data.tags["verdict"] == report["verdict"]
    assert [file.path for file in client.list_artifacts(run_id)] == ["report.json"]
    assert {run.data.tags["mlflow.parentRunId"] for run in below} == {run_id}
    assert len(below) == len(report["trials"]) > 0
    states = {run.data.tags["state"] for run in below}
    assert states == {trial["state"] for trial in report["trials"]}


def test_a_server_that_is_not_there_is_named_and_the_report_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    report = {**sample_report(), "output": str(tmp_path)}

    with pytest.raises(EnvironmentFault, match=r"could not be sent to MLflow at `http://127\.0\.0\.1:9`"):
        track(report, "http://127.0.0.1:9")
