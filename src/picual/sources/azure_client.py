"""Clients of Azure, made when something is asked for and not before.

Which cloud: as azure-ai-ml itself decides it (``AZUREML_CURRENT_CLOUD``, ``ARM_CLOUD_METADATA_URL``, else the
public one), or the one that is given. Who asks: the first of environment variables, a node's managed identity,
``az login`` and what else ``DefaultAzureCredential`` tries. Only the services that are asked learn anything.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from picual import _lazy
from picual.sources.azure_address import Workspace, default_workspace
from picual.sources.azure_retries import Patience

EXTRA = "azureml"
PACKAGES = ("azure.ai.ml", "azure.identity", "azure.storage.blob")
BY = "Azure Machine Learning"
NOISY = ("azure", "msrest")


@dataclass(frozen=True)
class Cloud:
    """A cloud by its name and, where azure-ai-ml does not know it, its endpoints by azure-ai-ml's names."""

    name: str
    endpoints: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class Access:
    """Everything that a look-up needs: who, where, how patiently."""

    folder: Path  # the recipe's
    config: str | None = None  # the workspace's own `config.json`
    patience: Patience = field(default_factory=Patience)
    cloud: Cloud | None = None
    credential: Any = field(default=None, compare=False)

    @classmethod
    def of(cls, options: Mapping[str, Any], folder: Path) -> Access:
        """Return the access that the options of a model say."""
        config = options.get("aml_config_path")
        return cls(folder=folder, config=None if config is None else str(config), patience=Patience.of(options))

    def workspace(self, workspace: Workspace | None) -> Any:
        """Return azure-ai-ml's client of a workspace; None: the default one.

        Raises:
            BadValue: Nothing names a workspace.
            MissingDependency: The extra is not installed.
        """
        named = workspace or default_workspace(self.folder, self.config)
        return self._client(named.subscription, named.group, named.name)

    def registry(self, name: str) -> Any:
        """Return azure-ai-ml's client of a registry, which asks for the registry's place at once."""
        return self._client(registry_name=name)

    def container(self, account_url: str, container: str, secret: Any = None) -> Any:
        """Return the client of a container; without a secret: by identity.

        Its own retries are off: they start at 15 s, know no 429 and give up on a body that was cut.
        """
        blob = _lazy.need("azure.storage.blob", extra=EXTRA, by=BY)
        given = secret or self.who()
        return blob.ContainerClient(account_url, container, credential=given, retry_total=0, **_PIECEWISE)

    def signed_container(self, url: str) -> Any:
        """Return the client of a container whose address carries its signature."""
        blob = _lazy.need("azure.storage.blob", extra=EXTRA, by=BY)
        return blob.ContainerClient.from_container_url(url, retry_total=0, **_PIECEWISE)

    def who(self) -> Any:
        """Return the credential."""
        return self.credential if self.credential is not None else _default_credential()

    def _client(self, *scope: str, **given: Any) -> Any:
        azure = _lazy.need("azure.ai.ml", extra=EXTRA, by=BY)
        given |= {"enable_telemetry": False, "show_progress": False, "retry_total": 0}
        if self.cloud is None:
            return azure.MLClient(self.who(), *scope, **given)
        given["cloud"] = self.cloud.name
        try:
            return azure.MLClient(self.who(), *scope, cloud_metadata=dict(self.cloud.endpoints), **given)
        except AttributeError:  # azure-ai-ml knows it already, and refuses to be told again
            return azure.MLClient(self.who(), *scope, **given)


PIECE = 8 << 20  # bytes of one read
_PIECEWISE: dict[str, Any] = {"max_single_get_size": PIECE, "max_chunk_get_size": PIECE}


@functools.lru_cache(maxsize=1)
def _default_credential() -> Any:
    return _lazy.need("azure.identity", extra=EXTRA, by=BY).DefaultAzureCredential()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep azure's loggers silent: what goes wrong is told by our errors, and they know no secrets.

    Each by itself: azure-ai-ml gives some of them a level and a handler of their own.
    """
    known = [name for name in list(logging.root.manager.loggerDict) if name.split(".")[0] in NOISY]
    loggers = [logging.getLogger(name) for name in {*NOISY, *known}]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
