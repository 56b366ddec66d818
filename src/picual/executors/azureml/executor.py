"""Runs each job as a command job: sends it, looks after it, brings back what it made.

The job's name is kept beside it: a driver that died and comes back goes on waiting for the same job.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from picual import _atomic
from picual.errors import EnvironmentFault, Interrupted, JobLost, PicualError
from picual.executors import parcel
from picual.executors.azureml import jobs
from picual.executors.azureml.host import AzureMl
from picual.executors.azureml.share import BlobShare
from picual.executors.base import OnEvent
from picual.executors.host import Surroundings
from picual.executors.job import Job, Result
from picual.sources.azure_client import Workspace, container_of, faults, ml_client

REMOTE = "remote.json"
LOG_LINES = 15


class AzureMlExecutor:
    """One job at a time on one compute."""

    def __init__(self, host: AzureMl, around: Surroundings) -> None:
        self._host, self._around = host, around
        workspace = Workspace.of(
            host.subscription_id, host.resource_group, host.workspace_name, config=host.aml_config_path
        )
        self._client = ml_client(workspace)
        with faults(f"compute `{host.compute}` of workspace `{workspace.name}`"):
            self._client.compute.get(host.compute)
        container = container_of(self._client, host.datastore)
        self._share = BlobShare(container, f"{host.folder}")
        self._environment = jobs.environment_of(host)
        self._code = jobs.code_folder(around.state)
        for note in self._environment.notes:
            around.emit("warning", path=f"{Path(host.conda_file or '').name}", text=note)

    def run(self, folder: Path, on_event: OnEvent) -> Result:
        """Submit the job, or go on waiting for it, and bring back what it made."""
        job = Job.read(folder)
        name = self._under_way(folder) or self._submit(folder, job)
        try:
            status = self._wait(folder, job, name, on_event)
        except KeyboardInterrupt:
            self.cancel(name)
            (folder / REMOTE).unlink(missing_ok=True)
            raise Interrupted(f"interrupted in `{job.label}`", hint="the same command continues it") from None
        (folder / REMOTE).unlink(missing_ok=True)
        if parcel.result_of(self._share, folder.name) is None:
            raise self._lost(job, name, status)
        result = parcel.fetch(self._share, folder.name, folder)
        if result.error is None:
            parcel.forget(self._share, folder.name)
        return result

    def close(self) -> None:
        """Nothing is held between two jobs."""

    def cancel(self, name: str) -> None:
        """Cancel a job; one that has ended is left alone."""
        with contextlib.suppress(PicualError), faults(f"job `{name}`"):
            self._client.jobs.begin_cancel(name)

    def _submit(self, folder: Path, job: Job) -> str:
        """Send the job and all it reads; return its name at Azure."""
        with faults("the share of the workspace"):
            parcel.send(self._share, folder, self._around.files)
        with tempfile.TemporaryDirectory() as place, faults(f"compute `{self._host.compute}`"):
            wanted = jobs.command_job(
                self._host, self._environment, self._code, folder.name, job.label, Path(place)
            )
            sent = self._client.jobs.create_or_update(wanted)
        facts = {"job": sent.name, "compute": self._host.compute, "studio": getattr(sent, "studio_url", None)}
        _atomic.write_json(folder / REMOTE, facts)
        self._around.emit("submitted", step=job.label, host="azureml", job=sent.name)
        return str(sent.name)

    def _under_way(self, folder: Path) -> str | None:
        """Return the job that an earlier driver submitted for this very work, if it has not failed."""
        try:
            name = str(json.loads((folder / REMOTE).read_text(encoding="utf-8"))["job"])
        except (OSError, ValueError, KeyError):
            return None
        with contextlib.suppress(PicualError), faults(f"job `{name}`"):
            status = str(self._client.jobs.get(name).status)
            return name if status not in {"Failed", "Canceled"} else None
        return None

    def _wait(self, folder: Path, job: Job, name: str, on_event: OnEvent) -> str:
        """Wait until the job has ended; return its status there.

        Raises:
            EnvironmentFault: It did not begin in time.
        """
        deadline, told, seen = time.monotonic() + 60 * self._host.start_minutes, "", 0
        while True:
            with faults(f"job `{name}`"):
                status = str(self._client.jobs.get(name).status)
            if status != told:
                on_event({"time": round(time.time(), 3), "step": job.label, "event": "remote", "status": status})
                told = status
            for event in self._events(folder.name, seen):
                seen += 1
                on_event(event)
            if status in jobs.ENDED:
                return status
            if status not in jobs.BEGUN and time.monotonic() > deadline:
                self.cancel(name)
                raise EnvironmentFault(
                    f"the job of `{job.label}` has not begun after {self._host.start_minutes:g} minutes"
                    f" ({status}); it was cancelled",
                    where=f"compute {self._host.compute}",
                    hint="look at the compute's nodes and quota, or raise `start_minutes` under the host",
                )
            time.sleep(self._host.poll)

    def _events(self, name: str, seen: int) -> Iterator[dict[str, Any]]:
        text = self._share.read(f"jobs/{name}/events.jsonl") or ""
        for line in text.splitlines(keepends=True)[seen:]:
            if line.endswith("\n"):
                yield json.loads(line)

    def _lost(self, job: Job, name: str, status: str) -> PicualError:
        log = self._log(name)
        said = f": {log[-1]}" if log else ""
        return JobLost(
            f"the job of `{job.label}` ended as {status} without a result{said}",
            where=f"job {name}",
            hint="`picual runs logs` shows what it printed; the same command tries again",
        )

    def _log(self, name: str) -> list[str]:
        """Return the last lines that a job printed."""
        with tempfile.TemporaryDirectory() as place, contextlib.suppress(PicualError), faults(f"job `{name}`"):
            self._client.jobs.download(name, download_path=place, all=False)
            for log in sorted(Path(place).rglob("std_log.txt")):
                lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
                return [line for line in lines if line.strip()][-LOG_LINES:]
        return []
