"""ARM: subscriptions, workspaces, computes, datastores, assets and jobs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loopback.assets import Assets
from loopback.blobs import ACCOUNT, Blobs
from loopback.identity import Identity
from loopback.jobs import Jobs
from loopback.server import Answer, Request, Server, refusal

SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
GROUP = "group"
PREFIX = r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
ARM = PREFIX + r"/providers/Microsoft\.MachineLearningServices/workspaces/(?P<workspace>[^/]+)"
ASSET = r"/(?P<kind>{})(?:/(?P<name>[^/]+))?(?:/versions(?:/(?P<version>[^/]+))?)?/?"


class Workspace:
    """One workspace: what is in it is plain dictionaries, for a test to fill and to read."""

    def __init__(self, name: str, blobs: Blobs, *, subscription: str = SUBSCRIPTION, group: str = GROUP) -> None:
        self.name, self.subscription, self.group = name, subscription, group
        self.blobs = blobs
        self.arm_id = (
            f"/subscriptions/{subscription}/resourceGroups/{group}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{name}"
        )
        self.assets = Assets(self.arm_id)
        self.jobs = Jobs(self)
        self.computes: dict[str, dict[str, Any]] = {}
        self.datastores: dict[str, dict[str, Any]] = {}
        self.add_datastore("workspaceblobstore", default=True)
        self.add_datastore("workspaceartifactstore")

    @property
    def address(self) -> str:
        """The start of the long ``azureml://`` addresses in it."""
        return f"azureml://subscriptions/{self.subscription}/resourcegroups/{self.group}/workspaces/{self.name}"

    def container(self, datastore: str) -> str:
        """Return the container behind a datastore."""
        properties = self.datastores[datastore]
        return str(properties.get("containerName") or properties["filesystem"])

    def add_datastore(
        self, name: str, *, kind: str = "AzureBlob", credentials: str = "AccountKey", default: bool = False
    ) -> None:
        """Add a datastore with a container of its own.

        Args:
            name: Of the datastore.
            kind: ``AzureBlob`` or ``AzureDataLakeGen2``.
            credentials: ``AccountKey`` (a signature is given out), or ``None``: by the caller's identity.
            default: Whether it is the workspace's default.
        """
        container = f"{self.name}-{name}".lower()
        self.blobs.containers.setdefault(container, {})
        field = "containerName" if kind == "AzureBlob" else "filesystem"
        self.datastores[name] = {
            "datastoreType": kind, "accountName": ACCOUNT, field: container, "protocol": "https",
            "endpoint": self.blobs.endpoint(), "credentials": {"credentialsType": credentials},
            "isDefault": default, "tags": {}, "properties": {},
        }  # fmt: skip

    def add_compute(self, name: str, *, size: str = "STANDARD_NC6S_V3", most: int = 4) -> None:
        """Add an AmlCompute cluster."""
        scale = {"minNodeCount": 0, "maxNodeCount": most, "nodeIdleTimeBeforeScaleDown": "PT120S"}
        inner = {"vmSize": size, "vmPriority": "Dedicated", "scaleSettings": scale, "enableNodePublicIp": True}
        self.computes[name] = {
            "computeType": "AmlCompute", "provisioningState": "Succeeded", "computeLocation": "here",
            "properties": inner,
        }  # fmt: skip

    def attach_kubernetes(self, name: str, *, instance_types: tuple[str, ...] = ("defaultinstancetype",)) -> None:
        """Attach a cluster reached through Azure Arc."""
        arc = f"/subscriptions/{self.subscription}/resourceGroups/{self.group}/providers"
        types = {each: {"resources": {"requests": {"cpu": "1"}}} for each in instance_types}
        self.computes[name] = {
            "computeType": "Kubernetes", "provisioningState": "Succeeded",
            "resourceId": f"{arc}/Microsoft.Kubernetes/connectedClusters/{name}",
            "properties": {"namespace": "default", "instanceTypes": types},
        }  # fmt: skip

    def put_model(self, name: str, version: str, folder: Path, *, kind: str = "custom_model") -> None:
        """Register a folder as a model, with its files in the default datastore."""
        prefix = f"models/{name}/{version}/{folder.name}"
        self.blobs.put_folder(self.container("workspaceblobstore"), prefix, folder)
        uri = f"{self.address}/datastores/workspaceblobstore/paths/{prefix}"
        self.assets.put("models", name, version, {"modelUri": uri, "modelType": kind})

    def put_data(self, path: str, content: bytes, *, datastore: str = "workspaceblobstore") -> str:
        """Store one file and return its long address."""
        self.blobs.put(self.container(datastore), path, content)
        return f"{self.address}/datastores/{datastore}/paths/{path}"


class Control:
    """The control plane and the part of the data plane that goes with workspaces."""

    def __init__(self, server: Server, identity: Identity, blobs: Blobs) -> None:
        self.workspaces: dict[str, Workspace] = {}
        self._server, self._identity, self._blobs = server, identity, blobs
        self._pending = itertools.count(1)
        route = server.route
        inside: dict[tuple[str, str, str], Callable[[Workspace, Request], Answer]] = {
            ("workspaces", "GET", ""): self._workspace,
            ("computes", "GET PUT", r"/computes(?:/(?P<name>[^/]+))?"): self._compute,
            ("secrets-of-datastores", "POST", r"/datastores/(?P<name>[^/]+)/listSecrets"): self._secrets,
            ("datastores", "GET PUT", r"/datastores(?:/(?P<name>[^/]+))?"): self._datastore,
            ("uploads", "POST", r"/codes/(?P<name>[^/]+)/versions/[^/]+/startPendingUpload"): self._upload,
            ("cancel", "POST", r"/jobs/(?P<name>[^/]+)/cancel"): lambda w, r: w.jobs.cancel(r.parts["name"]),
            ("jobs", "GET PUT", r"/jobs(?:/(?P<name>[^/]+))?"): lambda w, r: w.jobs.answer(r),
            ("models", "GET PUT", ASSET.format("models")): lambda w, r: w.assets.answer(r),
            ("assets", "GET PUT", ASSET.format("data|environments|codes|components")): (
                lambda w, r: w.assets.answer(r)
            ),
        }  # fmt: skip
        for (name, methods, path), handler in inside.items():
            route(name, methods, ARM + path, self._checked(handler))
        route("discovery", "GET", "/discovery", lambda _: Answer(200, {"api": server.url, "history": server.url}))
        route("clouds", "GET", "/metadata/endpoints", lambda _: Answer(200, [self.cloud()]))
        history = r"/history/v1\.0" + ARM
        route("history", "GET", history + r"/runs/(?P<name>[^/]+)/details", self._checked(_details))
        route(
            "history", "POST", history + r"/rundata", self._checked(lambda w, r: w.jobs.run_data(r.json["runId"]))
        )
        uris = r"/data/v1\.0" + ARM + r"/dataversion/batchGetResolvedUris"
        route("uris", "POST", uris, self._checked(lambda w, r: w.jobs.resolved(r.json["values"])))

    def cloud(self) -> dict[str, Any]:
        """Return the cloud as ARM's metadata endpoint describes it."""
        url = f"{self._server.url}/"
        return {
            "name": f"Loopback{self._server.port}", "portal": url, "resourceManager": url,
            "authentication": {"loginEndpoint": url}, "suffixes": {"storage": self._blobs.endpoint()},
        }  # fmt: skip

    def _checked(self, handler: Callable[[Workspace, Request], Answer]) -> Callable[[Request], Answer]:
        """Look up the caller and the workspace first, as the service does."""

        def checked(request: Request) -> Answer:
            if refused := self._identity.refuses(request):
                return refused
            subscription, name = request.parts["subscription"], request.parts["workspace"]
            if subscription not in {each.subscription for each in self.workspaces.values()} | {SUBSCRIPTION}:
                what = f"the subscription '{subscription}' could not be found"
                return refusal(404, "SubscriptionNotFound", what)
            workspace = self.workspaces.get(name)
            if workspace is None or workspace.group.lower() != request.parts["group"].lower():
                return refusal(404, "ResourceNotFound", f"the workspace '{name}' was not found")
            return handler(workspace, request)

        return checked

    def _workspace(self, workspace: Workspace, request: Request) -> Answer:
        properties = {
            "discoveryUrl": f"{self._server.url}/discovery", "workspaceId": workspace.name,
            "storageAccount": f"{workspace.arm_id}/storage", "keyVault": "", "applicationInsights": "",
            "provisioningState": "Succeeded", "mlFlowTrackingUri": self._server.url,
        }  # fmt: skip
        body = {"id": workspace.arm_id, "name": workspace.name, "location": "here", "properties": properties}
        return Answer(200, {**body, "kind": "Default", "tags": {}})

    def _compute(self, workspace: Workspace, request: Request) -> Answer:
        name = request.parts["name"]
        if request.method == "PUT":
            workspace.computes[name] = {**request.json["properties"], "provisioningState": "Succeeded"}
        if not name:
            return Answer(200, {"value": [_compute_of(workspace, each) for each in workspace.computes]})
        if name not in workspace.computes:
            return refusal(404, "ResourceNotFound", f"the compute '{name}' was not found")
        return Answer(200, _compute_of(workspace, name))

    def _datastore(self, workspace: Workspace, request: Request) -> Answer:
        name = request.parts["name"]
        if request.method == "PUT":
            workspace.datastores[name] = request.json["properties"]
        if name and name not in workspace.datastores:
            return refusal(404, "UserError", f"could not find datastore: {name}")
        if name:
            return Answer(200, _datastore_of(workspace, name))
        only_default = request.query.get("isDefault", "").lower() == "true"
        shown = [
            _datastore_of(workspace, each)
            for each, properties in workspace.datastores.items()
            if properties.get("isDefault") or not only_default
        ]
        return Answer(200, {"value": shown})

    def _secrets(self, workspace: Workspace, request: Request) -> Answer:
        kind = workspace.datastores[request.parts["name"]]["credentials"]["credentialsType"]
        if kind == "None":
            return refusal(400, "UserError", "no secrets for credentials of type None")
        return Answer(200, {"secretsType": "Sas", "sasToken": self._blobs.sas()})

    def _upload(self, workspace: Workspace, request: Request) -> Answer:
        container = f"{workspace.name}-code-{next(self._pending)}".lower()
        self._blobs.containers[container] = {}
        uri = self._blobs.url(container)
        credential = {"credentialType": "SAS", "sasUri": f"{uri}?{self._blobs.sas()}"}
        reference = {"blobUri": uri, "credential": credential, "storageAccountArmId": workspace.arm_id}
        body = {"pendingUploadType": "TemporaryBlobReference", "blobReferenceForConsumption": reference}
        return Answer(200, body)


def _details(workspace: Workspace, request: Request) -> Answer:
    return workspace.jobs.details(request.parts["name"])


def _compute_of(workspace: Workspace, name: str) -> dict[str, Any]:
    arm_id = f"{workspace.arm_id}/computes/{name}"
    return {"id": arm_id, "name": name, "location": "here", "properties": workspace.computes[name], "tags": {}}


def _datastore_of(workspace: Workspace, name: str) -> dict[str, Any]:
    arm_id = f"{workspace.arm_id}/datastores/{name}"
    return {"id": arm_id, "name": name, "properties": workspace.datastores[name]}
