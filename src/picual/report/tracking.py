"""A report as runs of an MLflow server: one for the result, one below it for each trial.

Only ever used when the recipe names a tracking address; MLflow itself is told not to call home.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picual import _lazy
from picual.errors import EnvironmentFault

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "picual"
MOST_CHARACTERS = 500  # of a parameter's value
PAGES = ("report.json", "report.html", "report.md")


def track(report: Mapping[str, Any], uri: str) -> str:
    """Send a report to the tracking server at ``uri`` and return the id of its run.

    Raises:
        MissingDependency: ``mlflow-skinny`` is not installed.
        EnvironmentFault: The server cannot be reached, or refuses.
    """
    _lazy.need("mlflow", extra="mlflow", by="tracking")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Else the client writes the address of every run to stdout, between the lines of `--json`.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return _sent(MlflowClient(tracking_uri=uri), report)
    except (MlflowException, OSError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise EnvironmentFault(
            f"the result could not be sent to MLflow at `{uri}`: {said[0]}",
            hint="the report is in the output folder; the same command sends it again",
        ) from error


def _sent(client: MlflowClient, report: Mapping[str, Any]) -> str:
    known = client.get_experiment_by_name(EXPERIMENT)
    experiment = client.create_experiment(EXPERIMENT) if known is None else known.experiment_id
    output = Path(report["output"])
    run = client.create_run(experiment, run_name=output.name).info.run_id
    client.set_tag(run, "verdict", report["verdict"])
    for name, value in parameters(report):
        client.log_param(run, name, value[:MOST_CHARACTERS])
    for stage in ("baseline", "unquantized", "best"):
        for name, number in numbers(report[stage]):
            client.log_metric(run, f"{stage}.{name}", number)
    for step in report["steps"]:
        for curve, points in step.get("curves", {}).items():
            for x, y in points:
                client.log_metric(run, f"{step['name']}.{curve}", y, step=int(x))
    for page in PAGES:
        if (output / page).is_file():
            client.log_artifact(run, str(output / page))
    for trial in report["trials"]:
        _trial(client, experiment, run, trial)
    client.set_terminated(run, "FINISHED" if report["error"] is None else "FAILED")
    return str(run)


def _trial(client: MlflowClient, experiment: str, parent: str, trial: Mapping[str, Any]) -> None:
    tags = {"mlflow.parentRunId": parent, "state": trial["state"], "feasible": str(trial["feasible"])}
    name = f"trial {trial['number']}"
    run = client.create_run(experiment, run_name=name, tags=tags).info.run_id
    for key, value in trial["candidate"].items():
        client.log_param(run, _name(key), str(value)[:MOST_CHARACTERS])
    for key, number in numbers(trial["metrics"]):
        client.log_metric(run, key, number)
    client.set_terminated(run, "FAILED" if trial["state"] == "failed" else "FINISHED")


def parameters(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Return what the run was: recipe, device, seed, library versions."""
    environment = report["environment"]
    yield "recipe", str(report["recipe"])
    yield "seed", str(environment["seed"])
    yield "device", str(environment["device"])
    for library, version in environment["libraries"].items():
        yield f"version.{library}", str(version)


def numbers(values: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """Return every finite number of metric values, as ``metric.key``."""
    for metric, found in values.items():
        for key, value in found.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                yield _name(f"{metric}.{key}"), float(value)


def _name(text: str) -> str:
    """Return a name that MLflow takes: letters, digits, and a few signs."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in text)
