"""The whole cloud, and what points the SDKs of a process at it."""

from __future__ import annotations

import contextlib
import itertools
import os
import runpy
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loopback.blobs import Blobs
from loopback.compute import GUARD, Compute
from loopback.control import GROUP, SUBSCRIPTION, Control, Workspace
from loopback.faults import Faults
from loopback.identity import SECRET, Identity, StaticCredential
from loopback.registry import Registries
from loopback.server import Recorded, Server
from loopback.vault import Vaults


class Azure:
    """An Azure on this machine. One of it serves a whole test run; every test has a workspace of its own.

    Args:
        root: A folder for the certificate and for what the compute does.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.server = Server()
        self.identity = Identity(self.server)
        self.blobs = Blobs(self.server, self.identity)
        self.vaults = Vaults(self.server, self.identity)
        self.registries = Registries(self.server, self.identity, self.blobs)
        self.control = Control(self.server, self.identity, self.blobs)
        self.authority = root / "authority.pem"
        self.server.authority.cert_pem.write_to_path(str(self.authority))
        self.compute = Compute(root / "nodes", self.registries, self.variables)
        self._names = itertools.count(1)

    @property
    def faults(self) -> Faults:
        return self.server.faults

    @property
    def requests(self) -> list[Recorded]:
        return self.server.requests

    @property
    def variables(self) -> dict[str, str]:
        """What a process needs in its environment to speak to this cloud and no other, with a managed identity.

        A Python started with them also needs ``GUARD`` on its ``PYTHONPATH`` to find names under localhost.
        """
        return {
            "ARM_CLOUD_METADATA_URL": f"{self.server.url}/metadata/endpoints",
            "AZUREML_CURRENT_CLOUD": str(self.control.cloud()["name"]),
            "REGISTRY_DISCOVERY_ENDPOINT_URL": f"{self.server.url}/",
            "REQUESTS_CA_BUNDLE": str(self.authority),
            "SSL_CERT_FILE": str(self.authority),
            "MSI_ENDPOINT": f"{self.server.url}/msi",
            "MSI_SECRET": SECRET,
            "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        }

    @property
    def metadata(self) -> dict[str, str]:
        """Return the cloud as ``MLClient(cloud_metadata=)`` takes it."""
        url = f"{self.server.url}/"
        return {
            "azure_portal": url, "resource_manager": url, "active_directory": url, "aml_resource_id": url,
            "storage_endpoint": self.blobs.endpoint(), "registry_discovery_endpoint": url,
        }  # fmt: skip

    def workspace(self, name: str = "") -> Workspace:
        """Return a new workspace with the compute ``cluster`` and the default datastores."""
        made = Workspace(name or f"workspace-{next(self._names)}", self.blobs)
        made.jobs.compute = self.compute
        made.add_compute("cluster")
        self.control.workspaces[made.name] = made
        return made

    def credential(self) -> StaticCredential:
        return self.identity.credential()

    def client(self, workspace: Workspace | None = None, *, registry: str | None = None) -> Any:
        """Return the SDK's own ``MLClient`` for a workspace or a registry of this cloud."""
        from azure.ai.ml import MLClient

        scope = (SUBSCRIPTION, GROUP, workspace.name) if workspace is not None else (None, None, None)
        return MLClient(
            self.credential(), *scope, registry_name=registry, enable_telemetry=False, show_progress=False,
            **_cloud_arguments(self),
        )  # fmt: skip

    def reset(self) -> None:
        """Forget requests and faults: what one test did is nothing to the next."""
        self.faults.clear()
        self.requests.clear()
        self.server.errors.clear()
        self.blobs.reads.clear()
        self.identity.available = True
        self.identity.asked.clear()

    def close(self) -> None:
        self.server.close()


def _cloud_arguments(azure: Azure) -> dict[str, Any]:
    """Return what names the cloud to the SDK, which refuses to be told of the same one twice."""
    from azure.ai.ml import _azure_environments as known

    name = str(azure.control.cloud()["name"])
    return {"cloud": name} | ({} if name in known._environments else {"cloud_metadata": azure.metadata})


@contextlib.contextmanager
def pointed(azure: Azure, *, managed_identity: bool = True) -> Iterator[None]:
    """Point this process at the cloud: environment variables, and names under localhost only.

    Args:
        azure: The cloud.
        managed_identity: Whether this process has one, as a node has.
    """
    variables = dict(azure.variables)
    if not managed_identity:
        variables = {name: value for name, value in variables.items() if not name.startswith("MSI_")}
    # Python processes that are started from here are guarded too.
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(GUARD), os.environ.get("PYTHONPATH", "")]))
    before = socket.getaddrinfo
    with _environment(variables):
        runpy.run_path(str(GUARD / "sitecustomize.py"))
        try:
            yield
        finally:
            socket.getaddrinfo = before


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
