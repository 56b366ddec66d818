"""Registries: discovery, the models in them, and a signed address for the files of one."""

from __future__ import annotations

from pathlib import Path

from loopback.assets import Assets
from loopback.blobs import Blobs
from loopback.identity import Identity
from loopback.server import Answer, Request, Server, refusal

SUBSCRIPTION, GROUP = "11111111-1111-1111-1111-111111111111", "registries"
_BASE = "/mferp/managementfrontend"
_ARM = r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.MachineLearningServices/registries/"


class Registries:
    """Every registry of the cloud, made when its first model is put."""

    def __init__(self, server: Server, identity: Identity, blobs: Blobs) -> None:
        self._server, self._identity, self._blobs = server, identity, blobs
        self.assets: dict[str, Assets] = {}
        discovery = r"/registrymanagement/v1\.0/registries/(?P<registry>[^/]+)/discovery"
        server.route("registries", "GET", discovery, self._discover)
        inside = _BASE + _ARM + r"(?P<registry>[^/]+)"
        server.route(
            "datarefs", "POST", inside + r"/datarefs/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", self._reference
        )
        path = r"/(?P<kind>models|data|environments|codes|components)(?:/(?P<name>[^/]+))?"
        server.route(
            "registry-assets", "GET PUT", inside + path + r"(?:/versions(?:/(?P<version>[^/]+))?)?/?", self._asset
        )

    def put_model(
        self, registry: str, name: str, version: str, folder: Path, *, kind: str = "custom_model"
    ) -> None:
        """Register a folder as a model, with its files in the registry's own storage."""
        if registry not in self.assets:
            self.assets[registry] = Assets(f"azureml://registries/{registry}")
        container = f"{registry}-{name}-{version}".lower()
        prefix = folder.name
        self._blobs.put_folder(container, prefix, folder)
        uri = self._blobs.url(container, prefix)
        self.assets[registry].put("models", name, version, {"modelUri": uri, "modelType": kind})

    def _discover(self, request: Request) -> Answer:
        if refused := self._identity.refuses(request):
            return refused
        registry = request.parts["registry"]
        if registry not in self.assets:
            return refusal(404, "RegistryNotFound", f"registry {registry} not found")
        return Answer(200, {
            "registryName": registry,
            "primaryRegionResourceProviderUri": f"{self._server.url}/",
            "resourceGroup": GROUP,
            "subscriptionId": SUBSCRIPTION,
        })  # fmt: skip

    def _asset(self, request: Request) -> Answer:
        if refused := self._identity.refuses(request):
            return refused
        return self.assets[request.parts["registry"]].answer(request)

    def _reference(self, request: Request) -> Answer:
        if refused := self._identity.refuses(request):
            return refused
        uri = str(request.json["blobUri"])
        container = uri.split("/")[3]
        signed = f"{self._blobs.url(container)}?{self._blobs.sas()}"
        credential = {"credentialType": "SAS", "sasUri": signed}
        return Answer(200, {"blobReferenceForConsumption": {"blobUri": uri, "credential": credential}})
