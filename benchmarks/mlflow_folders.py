"""Whether real MLflow reads our folders, we read its own, and its server takes our reports; ends with 1 if not.

    python benchmarks/mlflow_folders.py
    python benchmarks/mlflow_folders.py --environment FOLDER    kept there, and used again

MLflow itself (Picual needs its client alone) is installed into an environment of its own, which takes torch and
transformers from the running one. That takes a few minutes, all else one or two. Models are tiny ones.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from mlflow_real import TEXT, logits_of

from picual.models import HfModel
from picual.report.tracking import EXPERIMENT, numbers, track
from picual.sources.resolve import resolve
from picual.testing.sample_report import sample_report
from picual.testing.tiny import Layout, tiny_model

PICUAL = [sys.executable, "-m", "picual.cli.main"]
REAL = Path(__file__).with_name("mlflow_real.py")
LAYOUTS: tuple[Layout, ...] = ("llama", "phi3", "qwen3")
FLAVOURS = ("transformers", "pytorch")
FARTHEST = 1e-5  # of a logit: the same network on the same machine, loaded by another hand
READY = 120.0  # seconds in which the server has to answer
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "HF_HUB_OFFLINE": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}  # fmt: skip


def main() -> None:
    """Try both directions and the server, and print a line for each finding."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--environment", type=Path)
    given = asked.parse_args()
    os.environ.update(QUIET)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        python = environment(given.environment or place / "environment")
        models = {layout: tiny_model(place / "given" / layout, layout=layout) for layout in LAYOUTS}
        findings = [
            *ours_read_by_mlflow(python, models, place),
            *theirs_read_by_us(python, models, place),
            *tracked(python, place),
        ]
    sys.exit(0 if all(findings) else 1)


def environment(folder: Path) -> Path:
    """Return the Python of an environment with MLflow, made if it is not there."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if python.is_file():
        return python
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([str(python), "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
    # What is installed here is seen there too, and not downloaded again.
    (Path(packages) / "reused.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wanted = f"mlflow=={metadata.version('mlflow-skinny')}"  # the server of the client that is here
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wanted]
    subprocess.run(install, check=True, stderr=subprocess.DEVNULL)
    print(f"{wanted} installed in {time.monotonic() - began:.0f} s", flush=True)
    return python


def ours_read_by_mlflow(python: Path, models: dict[Layout, HfModel], place: Path) -> Iterator[bool]:
    """Export each model with ``picual export``, let MLflow load the folder, and compare logits and ids."""
    for layout, model in models.items():
        export = ["export", str(model.path), "-o", str(place / "ours" / layout), "--format", "mlflow"]
        subprocess.run([*PICUAL, *export, "--store", str(place / "store")], check=True, capture_output=True)
    folders = {layout: str(place / "ours" / layout / "model") for layout in models}
    real(python, "load", str(place / "answer.json"), *folders.values())
    answers = json.loads((place / "answer.json").read_text(encoding="utf-8"))
    for layout, model in models.items():
        told = answers[folders[layout]]
        ids, expected = answer_of(model)
        yield finding(f"MLflow reads our {layout}: ids", told["ids"] == ids, f"{len(ids)} tokens")
        yield close(f"MLflow reads our {layout}: logits", expected, told["logits"])
        written = told["written"]
        served = len(written) == 1 and written[0].startswith("Rope")
        yield finding(f"MLflow serves our {layout}", served, f"{sum(map(len, written))} characters")


def theirs_read_by_us(python: Path, models: dict[Layout, HfModel], place: Path) -> Iterator[bool]:
    """Let MLflow save each model, read the folders as a run does, and compare logits and ids."""
    for layout, model in models.items():
        folder = place / "theirs" / layout
        real(python, "save", str(folder), str(model.path))
        ids, expected = answer_of(model)
        for flavour in FLAVOURS:
            goal = place / "read" / layout / flavour
            goal.mkdir(parents=True)
            read = resolve(str(folder / flavour), folder=place, trust=flavour == "pytorch").fetch(goal)
            assert isinstance(read, HfModel)
            found, logits = answer_of(read)
            yield finding(f"we read MLflow's {flavour} {layout}: ids", found == ids, f"{len(ids)} tokens")
            yield close(f"we read MLflow's {flavour} {layout}: logits", expected, logits)


def real(python: Path, *words: str) -> None:
    """Let MLflow do something; what it says is shown if it fails."""
    done = subprocess.run([str(python), str(REAL), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)


def answer_of(model: HfModel) -> tuple[list[int], list[list[float]]]:
    """Return the ids of the text, and the logits that transformers gives for them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model.path, local_files_only=True)
    ids = tokenizer(TEXT)["input_ids"]
    return ids, logits_of(AutoModelForCausalLM.from_pretrained(model.path, local_files_only=True), ids)


def tracked(python: Path, place: Path) -> Iterator[bool]:
    """Send a report to a server of its own on this machine, and read it back."""
    from mlflow import MlflowClient

    output = place / "output"
    output.mkdir()
    report = {**sample_report(), "output": str(output)}
    page = json.dumps(report)
    (output / "report.json").write_text(page, encoding="utf-8")
    with server(python, place / "server") as address:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            run = track(report, address)
        client = MlflowClient(tracking_uri=address)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        found = client.get_run(run)
        below = [one for one in client.search_runs([experiment.experiment_id]) if one.info.run_id != run]
        kept = Path(client.download_artifacts(run, "report.json", str(place))).read_text(encoding="utf-8")
    expected = {f"best.{name}": number for name, number in numbers(report["best"])}
    same = {name: number for name, number in found.data.metrics.items() if name.startswith("best.")} == expected
    yield finding("nothing is written between our own lines", not said.getvalue(), said.getvalue()[:80])
    yield finding("the server keeps the best's numbers", same, f"{len(expected)} of them")
    told = found.data.tags["verdict"] == report["verdict"] and found.info.status == "FINISHED"
    yield finding("the server keeps verdict and state", told, found.info.status)
    whole = len(below) == len(report["trials"]) and {one.data.tags["mlflow.parentRunId"] for one in below} == {run}
    yield finding("the server keeps the trials below it", whole, f"{len(below)} runs")
    yield finding("the server keeps the report itself", kept == page, f"{len(page)} characters")


@contextlib.contextmanager
def server(python: Path, folder: Path) -> Iterator[str]:
    """Run ``mlflow server`` on the loopback, with a database in ``folder``, as long as the block runs."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    words = [
        str(python), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'runs.db'}", "--artifacts-destination", str(folder / "files"),
    ]  # fmt: skip
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True) as process,
    ):
        try:
            seconds = ready(address, process)
            print(f"mlflow server answers after {seconds:.0f} s", flush=True)
            yield address
        except TimeoutError:
            print((folder / "log").read_text()[-2000:], flush=True)
            raise
        finally:
            stop(process)


def ready(address: str, process: subprocess.Popen[bytes]) -> float:
    """Wait until the server answers, and return how long that took."""
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < READY:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{address}/health"):
            return time.monotonic() - began
        time.sleep(0.2)
    raise TimeoutError("`mlflow server` does not answer")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server with all the processes that it started."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        _, alive = psutil.wait_procs([*started, psutil.Process(process.pid)], timeout=10)
        for one in alive:
            one.kill()


def close(name: str, expected: list[list[float]], found: list[list[float]]) -> bool:
    """Compare logits."""
    pairs = zip(expected, found, strict=True)
    farthest = max(abs(one - other) for row, line in pairs for one, other in zip(row, line, strict=True))
    return finding(name, farthest <= FARTHEST, f"{farthest:.2g} apart")


def finding(name: str, passed: bool, detail: str) -> bool:
    """Print one line, and return whether it held."""
    print(f"{'ok    ' if passed else 'FAILED'} {name}: {detail}", flush=True)
    return passed


if __name__ == "__main__":
    main()
