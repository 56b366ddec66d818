"""Runs each job as a command job: sends it, looks after it, brings back what it made.

The job's name is kept beside it: a driver that died and comes back goes on waiting for the same job.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from picual import _atomic
from picual.errors import DeviceUnavailable, EnvironmentFault, Interrupted, JobLost, PicualError, nearest
from picual.executors import parcel
from picual.executors.azureml import jobs
from picual.executors.azureml.settings import AzureMlSettings
from picual.executors.azureml.share import BlobShare
from picual.executors.base import OnEvent
from picual.executors.host import Surroundings
from picual.executors.job import Job, Result
from picual.sources.azure_address import Workspace
from picual.sources.azure_client import Access
from picual.sources.azure_errors import explained
from picual.sources.azure_lookup import locate
from picual.sources.azure_retries import Patience

REMOTE = "remote.json"
LOG_LINES = 15
T = TypeVar("T")


class AzureMlExecutor:
    """One job at a time on one compute."""

    def __init__(self, host: AzureMlSettings, around: Surroundings) -> None:
        self._host, self._around = host, around
        patience = Patience(host.max_operation_retries, host.operation_retry_interval)
        self._access = Access(folder=Path(), config=host.aml_config_path, patience=patience)
        self._client = self._ask("workspace", lambda: self._access.workspace(Workspace.of(host)))
        self._require_compute()
        self._share = self._shared()
        self._environment = jobs.environment_of(host)
        self._code = jobs.code_folder(around.state)
        for note in self._environment.notes:
            around.emit("warning", path=Path(host.conda_file or "conda").name, text=note)

    def run(self, folder: Path, on_event: OnEvent) -> Result:
        """Submit the job, or go on waiting for it, and bring back what it made."""
        job = Job.read(folder)
        name = self._under_way(folder)
        if name is None:
            parcel.send(self._share, folder, self._around.files)
            if parcel.result_of(self._share, folder.name) is not None:
                return self._brought(folder)
            name = self._submit(folder, job)
        try:
            status = self._wait(folder, job, name, on_event)
        except KeyboardInterrupt:
            self.cancel(name)
            (folder / REMOTE).unlink(missing_ok=True)
            raise Interrupted(f"interrupted in `{job.label}`", hint="the same command continues it") from None
        (folder / REMOTE).unlink(missing_ok=True)
        if parcel.result_of(self._share, folder.name) is None:
            raise self._lost(job, name, status)
        return self._brought(folder)

    def close(self) -> None:
        """Nothing is held between two jobs."""

    def cancel(self, name: str) -> None:
        """Cancel a job; one that has ended is left alone."""
        with contextlib.suppress(PicualError):
            self._ask(f"job {name}", lambda: self._client.jobs.begin_cancel(name))

    def _brought(self, folder: Path) -> Result:
        result = parcel.fetch(self._share, folder.name, folder)
        if result.error is None:
            parcel.forget(self._share, folder.name)
        return result

    def _submit(self, folder: Path, job: Job) -> str:
        """Submit a job that is in the share; return its name at Azure."""
        name = f"picual-{folder.name[:16]}-{secrets.token_hex(4)}"
        with tempfile.TemporaryDirectory() as place:
            wanted = jobs.command_job(
                self._host, self._environment, self._code, folder.name, job.label, Path(place)
            )
            wanted.name = name  # in the studio it is known by the work it does
            at = f"compute {self._host.compute}"
            sent = self._ask(at, lambda: self._client.jobs.create_or_update(wanted), writes=True)
        _atomic.write_json(folder / REMOTE, {"job": sent.name, "compute": self._host.compute})
        self._around.emit("submitted", step=job.label, host=self._host.compute, job=sent.name)
        return str(sent.name)

    def _under_way(self, folder: Path) -> str | None:
        """Return the job that an earlier driver submitted for this very work, if it has not failed."""
        try:
            name = str(json.loads((folder / REMOTE).read_text(encoding="utf-8"))["job"])
            status = self._status(name)
        except (OSError, ValueError, KeyError, PicualError):
            return None
        return name if status not in {"Failed", "Canceled"} else None

    def _wait(self, folder: Path, job: Job, name: str, on_event: OnEvent) -> str:
        """Wait until the job has ended; return its status there.

        Raises:
            EnvironmentFault: It did not begin in time.
        """
        deadline, told, seen = time.monotonic() + 60 * self._host.start_minutes, "", 0
        while True:
            status = self._status(name)
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

    def _status(self, name: str) -> str:
        status = self._ask(f"job {name}", lambda: self._client.jobs.get(name)).status
        return str(getattr(status, "value", status))

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
            hint="the studio's page of the job shows all that it printed; the same command tries again",
        )

    def _log(self, name: str) -> list[str]:
        """Return the last lines that a job printed."""
        with tempfile.TemporaryDirectory() as place, contextlib.suppress(PicualError):
            self._ask(f"job {name}", lambda: self._client.jobs.download(name, download_path=place))
            for log in sorted(Path(place).rglob("std_log.txt")):
                lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
                return [line for line in lines if line.strip()][-LOG_LINES:]
        return []

    def _require_compute(self) -> None:
        """Raise unless the workspace has the compute.

        Raises:
            DeviceUnavailable: It has not; the nearest names are in the hint.
        """
        from azure.core.exceptions import ResourceNotFoundError

        wanted = self._host.compute

        def found() -> bool:
            try:
                self._client.compute.get(wanted)
            except ResourceNotFoundError as error:
                if getattr(error.error, "code", "") in {"SubscriptionNotFound", "ResourceGroupNotFound"}:
                    raise
                return False
            return True

        if not self._ask(f"compute {wanted}", found):
            names = self._ask("computes", lambda: [one.name for one in self._client.compute.list()])
            raise DeviceUnavailable(
                f"the workspace has no compute `{wanted}`", where=self._client.workspace_name,
                hint=nearest(str(wanted), names) or "az ml compute list --output table",
            )  # fmt: skip

    def _shared(self) -> BlobShare:
        host, workspace = self._host, Workspace.of_client(self._client)
        uri = f"{workspace.address}/datastores/{host.datastore}/paths/{host.folder}"
        return BlobShare(locate(uri, self._access).open, host.folder.strip("/"), self._access, uri)

    def _ask(self, what: str, call: Callable[[], T], *, writes: bool = False) -> T:
        with explained(what, self._access.patience, writes=writes):
            return self._access.patience.ask(call)
