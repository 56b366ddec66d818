"""The compute: brings code and inputs, runs the command as a process of this machine, sends logs and outputs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from loopback.environments import JobEnvironment, Prepare, shared_python
from loopback.jobs import ARTIFACTS, FINISHED, Job
from loopback.places import Place, place_of

if TYPE_CHECKING:
    from loopback.control import Workspace
    from loopback.registry import Registries

TICK = 0.05
GUARD = Path(__file__).with_name("guard")
_PLACEHOLDER = re.compile(r"\$\{\{\s*(inputs|outputs)\.([\w-]+)\s*\}\}")
_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]")


class Compute:
    """Every node of every cluster. ``prepare`` makes the Python of a job and may be replaced."""

    def __init__(self, root: Path, registries: Registries, variables: Mapping[str, str]) -> None:
        self.root = root
        self.prepare: Prepare = shared_python
        self.variables = dict(variables)  # what a node has of its own
        self._registries = registries

    def start(self, job: Job, workspace: Workspace) -> None:
        threading.Thread(target=self._run, args=(job, workspace), daemon=True).start()

    def _run(self, job: Job, workspace: Workspace) -> None:
        if job.fate.stuck:
            job.cancelled.wait()
            return
        job.cancelled.wait(job.fate.queued)
        try:
            node = _Node(self.root / workspace.name / job.name, job, workspace, self._registries)
            code = node.run(self.prepare, self.variables)
        except Exception as error:  # noqa: BLE001  # a node that breaks is a job that failed, with the reason
            job.become("Failed", f"{type(error).__name__}: {error}")
            return
        if job.cancelled.is_set():
            job.become("Canceled")
        else:
            job.become("Completed" if code == 0 else "Failed", "" if code == 0 else f"exit code {code}")


class _Node:
    """One job's folder on a node: ``code``, ``inputs``, ``outputs`` and its log."""

    def __init__(self, folder: Path, job: Job, workspace: Workspace, registries: Registries) -> None:
        self.folder, self.job, self.workspace, self.registries = folder, job, workspace, registries
        self.outputs = folder / "outputs"
        self._log = folder / "std_log.txt"
        self._sent: dict[Path, tuple[int, int]] = {}

    def run(self, prepare: Prepare, own: Mapping[str, str]) -> int:
        job = self.job
        preempt = job.fate.preempt_when
        while True:
            job.become("Preparing")
            paths = self._bring()
            job.command = _command(job.properties["command"], paths)
            job.variables = self._variables(prepare, own)
            if job.status in FINISHED or job.cancelled.is_set():
                return -1
            job.become("Running")
            code, preempted = self._attempt(preempt)
            job.exit_codes.append(code)
            if not preempted:
                break
            preempt = None  # once
            job.become("Queued")
        self._send()
        job.files = {
            name: sorted(f.relative_to(self.outputs / name).as_posix() for f in (self.outputs / name).rglob("*")
                         if f.is_file())
            for name in job.outputs
        }  # fmt: skip
        return code

    def _attempt(self, preempt: Any) -> tuple[int, bool]:
        """Run the command once; return its exit code and whether it was taken from us."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                ["/bin/bash", "-c", self.job.command], cwd=self.folder / "code", env=self.job.variables,
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            while process.poll() is None:
                if self.job.cancelled.is_set():
                    _kill(process)
                elif preempt is not None and preempt(self.outputs):
                    _kill(process)
                    return process.wait(), True
                self._send()
                time.sleep(TICK)
        return process.returncode, False

    def _bring(self) -> dict[str, str]:
        """Bring code and inputs onto a fresh node; return the values of the command's placeholders."""
        for name in ("code", "inputs"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(parents=True)
        if code := self.job.properties.get("codeId"):
            parts = str(code).split("/")
            properties = self.workspace.assets.properties("codes", parts[-3], parts[-1])
            assert properties is not None
            self._download(properties["codeUri"], self.folder / "code")
        values = {}
        for name, given in (self.job.properties.get("inputs") or {}).items():
            if given.get("jobInputType") == "literal":
                values[f"inputs.{name}"] = str(given["value"])
            else:
                values[f"inputs.{name}"] = str(self._download(given["uri"], self.folder / "inputs" / name))
        for name in self.job.outputs:
            self._mount(name)
            values[f"outputs.{name}"] = str(self.outputs / name)
        return values

    def _mount(self, name: str) -> None:
        """Show in an output's folder what its address holds already, as a mounted one does."""
        folder = self.outputs / name
        folder.mkdir(parents=True, exist_ok=True)
        place = place_of(self.job.outputs[name], self.workspace)
        for relative, content in self.workspace.blobs.under(place.container, place.path).items():
            file = folder / relative
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
                self._sent[file] = (file.stat().st_mtime_ns, file.stat().st_size)

    def _download(self, uri: str, folder: Path) -> Path:
        """Write the files of an address; return the file where it names one, else the folder."""
        place = place_of(uri, self.workspace, self.registries)
        found = self.workspace.blobs.under(place.container, place.path)
        if not found:
            raise LookupError(f"no files at {uri}")
        for name, content in found.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        single = place.path in self.workspace.blobs.containers[place.container]
        return folder / next(iter(found)) if single else folder

    def _variables(self, prepare: Prepare, own: Mapping[str, str]) -> dict[str, str]:
        properties, job, workspace = self.job.properties, self.job, self.workspace
        (self.folder / "home").mkdir(exist_ok=True)
        given = job.environment_variables
        variables = {
            "HOME": str(self.folder / "home"), "LANG": "C.UTF-8", "PATH": os.defpath, "PYTHONUNBUFFERED": "1",
            "AZUREML_RUN_ID": job.name, "AZUREML_ARM_SUBSCRIPTION": workspace.subscription,
            "AZUREML_ARM_RESOURCEGROUP": workspace.group, "AZUREML_ARM_WORKSPACE_NAME": workspace.name,
            **own, **prepare(self._environment()), **given,
        }  # fmt: skip
        identity = properties.get("identity") or {}
        if identity.get("identityType") == "UserIdentity":
            variables.pop("MSI_ENDPOINT", None)
        variables["PYTHONPATH"] = os.pathsep.join([str(GUARD), *filter(None, [given.get("PYTHONPATH")])])
        return variables

    def _environment(self) -> JobEnvironment:
        properties = self.job.environment
        build = properties.get("build") or {}
        files, dockerfile = self.folder / "code", ""
        if build:
            files = self.folder / "context"
            self._download(build["contextUri"], files)
            dockerfile = (files / (build.get("dockerfilePath") or "Dockerfile")).read_text()
        conda = yaml.safe_load(properties["condaFile"]) if properties.get("condaFile") else None
        cache = self.folder.parent.parent / "environments"
        cache.mkdir(exist_ok=True)
        return JobEnvironment(
            image=properties.get("image") or "", conda=conda, dockerfile=dockerfile, files=files, cache=cache
        )

    def _send(self) -> None:
        """Send what changed of the log and of the outputs, as a mounted output does while a job runs."""
        log = Place(self.workspace.container(ARTIFACTS), f"ExperimentRun/dcid.{self.job.name}/user_logs")
        self._send_file(self._log, log.container, f"{log.path}/std_log.txt")
        for name, uri in self.job.outputs.items():
            place = place_of(uri, self.workspace)
            # Not by `rglob`, which ends where a folder goes away under it, as those of old checkpoints do.
            for folder, _, files in os.walk(self.outputs / name):
                for file in (Path(folder) / one for one in files):
                    relative = file.relative_to(self.outputs / name).as_posix()
                    self._send_file(file, place.container, f"{place.path}/{relative}")

    def _send_file(self, file: Path, container: str, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # a temporary file of the job's, gone already
            if not file.is_file():
                return
            facts = file.stat()
            stamp = (facts.st_mtime_ns, facts.st_size)
            if self._sent.get(file) != stamp:
                self.workspace.blobs.put(container, name, file.read_bytes(), checked=False)
                self._sent[file] = stamp


def _command(text: str, values: Mapping[str, str]) -> str:
    """Replace the placeholders; what stands in ``$[[...]]`` goes with the input it names."""

    def optional(match: re.Match[str]) -> str:
        named = _PLACEHOLDER.findall(match[1])
        return match[1] if all(f"{kind}.{name}" in values for kind, name in named) else ""

    def value(match: re.Match[str]) -> str:
        return values[f"{match[1]}.{match[2]}"]

    return _PLACEHOLDER.sub(value, _OPTIONAL.sub(optional, text))


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
