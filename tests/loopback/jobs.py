"""Command jobs: what was asked, what came of it, and the answers of the control plane about them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopback.server import Answer, Request, refusal

if TYPE_CHECKING:
    from loopback.compute import Compute
    from loopback.control import Workspace

FINISHED = ("Completed", "Failed", "Canceled")
ARTIFACTS = "workspaceartifactstore"


@dataclass(frozen=True, kw_only=True)
class JobFate:
    """What happens to the next job that is submitted.

    Attributes:
        stuck: It stays in ``Queued`` until it is cancelled.
        preempt_when: Called with the folder of its outputs while it runs; the first time it says yes, the
            process is killed by SIGKILL and started anew on the same outputs, as on a low-priority node.
        queued: Seconds in ``Queued``.
    """

    stuck: bool = False
    preempt_when: Callable[[Path], bool] | None = None
    queued: float = 0


@dataclass
class Job:
    """One job. A test reads it once its status is one of ``FINISHED``."""

    name: str
    properties: dict[str, Any]  # as submitted
    fate: JobFate
    status: str = "Queued"
    statuses: list[str] = field(default_factory=lambda: ["Queued"])
    environment: dict[str, Any] = field(default_factory=dict)  # properties of the environment it got
    command: str = ""  # as run, its placeholders replaced
    variables: dict[str, str] = field(default_factory=dict)  # all that the process got
    exit_codes: list[int] = field(default_factory=list)  # one an attempt
    outputs: dict[str, str] = field(default_factory=dict)  # addresses by name
    files: dict[str, list[str]] = field(default_factory=dict)  # by output, once it is finished
    message: str = ""
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def environment_variables(self) -> dict[str, str]:
        """Return those that were submitted."""
        return dict(self.properties.get("environmentVariables") or {})

    @property
    def exit_code(self) -> int | None:
        return self.exit_codes[-1] if self.exit_codes else None

    def become(self, status: str, message: str = "") -> None:
        if self.status in FINISHED:
            return
        self.status, self.message = status, message or self.message
        self.statuses.append(status)


class Jobs:
    """The jobs of one workspace, by name; ``fates`` are taken by the next ones submitted."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.compute: Compute | None = None
        self.by_name: dict[str, Job] = {}
        self.fates: list[JobFate] = []

    def last(self) -> Job:
        """Return the job that was submitted last."""
        return list(self.by_name.values())[-1]

    def output_uri(self, name: str, output: str) -> str:
        if output == "default":
            return f"{self.workspace.address}/datastores/{ARTIFACTS}/paths/ExperimentRun/dcid.{name}"
        return self.by_name[name].outputs[output]

    def log(self, name: str) -> str:
        """Return what a job printed."""
        found = self.workspace.blobs.containers[self.workspace.container(ARTIFACTS)]
        return found[f"ExperimentRun/dcid.{name}/user_logs/std_log.txt"].content.decode()

    def answer(self, request: Request) -> Answer:
        name = request.parts["name"]
        if not name:
            return Answer(200, {"value": [self._resource(each) for each in self.by_name.values()]})
        if request.method == "PUT":
            return self._submit(name, request.json["properties"])
        if name not in self.by_name:
            return refusal(404, "UserError", f"the job {name} was not found")
        return Answer(200, self._resource(self.by_name[name]))

    def cancel(self, name: str) -> Answer:
        if name not in self.by_name:
            return refusal(404, "UserError", f"the job {name} was not found")
        self.by_name[name].cancelled.set()
        if self.by_name[name].status == "Queued":
            self.by_name[name].become("Canceled")
        return Answer(200)

    def _submit(self, name: str, properties: dict[str, Any]) -> Answer:
        compute = str(properties.get("computeId") or "").rpartition("/")[2]
        if compute not in self.workspace.computes:
            return refusal(400, "UserError", f"the compute target {compute} was not found in the workspace")
        if name in self.by_name:
            return Answer(200, self._resource(self.by_name[name]))
        job = Job(name, properties, self.fates.pop(0) if self.fates else JobFate())
        job.environment = self._environment_of(properties)
        default = f"{self.workspace.address}/datastores/workspaceblobstore/paths/azureml/{name}"
        for output, given in (properties.get("outputs") or {}).items():
            uri = given.get("uri") or f"{default}/{output}/"
            job.outputs[output] = uri.replace("${{name}}", name).replace("${{output_name}}", output)
        self.by_name[name] = job
        assert self.compute is not None
        self.compute.start(job, self.workspace)
        return Answer(201, self._resource(job))

    def _environment_of(self, properties: Mapping[str, Any]) -> dict[str, Any]:
        parts = str(properties.get("environmentId") or "").split("/")
        if "versions" not in parts:
            return {}
        name, version = parts[-3], parts[-1]
        return self.workspace.assets.properties("environments", name, version) or {}

    def _resource(self, job: Job) -> dict[str, Any]:
        outputs = {
            output: {**given, "uri": job.outputs[output]}
            for output, given in (job.properties.get("outputs") or {}).items()
        }
        store = f"azureml://datastores/{ARTIFACTS}/ExperimentRun/dcid.{job.name}"
        outputs["default"] = {"jobOutputType": "uri_folder", "mode": "ReadWriteMount", "uri": store}
        services = {"Studio": {"jobServiceType": "Studio", "endpoint": f"https://localhost/runs/{job.name}"}}
        properties = {
            "displayName": job.name, "experimentName": "default", "properties": {}, "tags": {},
            **job.properties, "status": job.status, "outputs": outputs, "services": services,
        }  # fmt: skip
        arm_id = f"{self.workspace.arm_id}/jobs/{job.name}"
        return {"id": arm_id, "name": job.name, "properties": properties, "systemData": {"createdBy": "loopback"}}

    def details(self, name: str) -> Answer:
        job = self.by_name[name]
        body: dict[str, Any] = {"runId": name, "status": job.status, "logFiles": {}}
        if job.message:
            body["error"] = {"error": {"code": "UserError", "message": job.message}}
        return Answer(200, body)

    def run_data(self, name: str) -> Answer:
        ids = {
            output: {"assetId": f"azureml://outputs/{name}/{output}", "type": "UriFolder"}
            for output in self.by_name[name].outputs
        }
        return Answer(200, {"runMetadata": {"runId": name, "outputs": ids}})

    def resolved(self, asset_ids: list[str]) -> Answer:
        values = {}
        for asset_id in asset_ids:
            name, output = asset_id.split("/")[-2:]
            values[asset_id] = {"uri": self.output_uri(name, output), "type": "UriFolder"}
        return Answer(200, {"values": values})
