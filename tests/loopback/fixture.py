"""Pytest fixtures: import them in a folder's ``conftest.py``.

``azure``: the cloud, started once, this process pointed at it while a test runs. ``workspace``: a fresh one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from loopback.cloud import Azure, pointed
from loopback.control import Workspace

_STARTED: list[Azure] = []


@pytest.fixture(scope="session")
def azure_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
    """The cloud of this run. Folders that each import the fixtures share the one that was started first."""
    if _STARTED:
        yield _STARTED[0]
        return
    with warnings.catch_warnings():
        # Only the import: marshmallow 3 and msrest as azure-ai-ml 1.35 uses them warn of their own next versions.
        warnings.simplefilter("ignore")
        import azure.ai.ml  # noqa: F401
    started = Azure(tmp_path_factory.mktemp("azure"))
    _STARTED.append(started)
    yield started
    _STARTED.clear()
    started.close()


@pytest.fixture
def azure(azure_cloud: Azure) -> Iterator[Azure]:
    """The cloud, with nothing left of the test before."""
    azure_cloud.reset()
    with pointed(azure_cloud):
        yield azure_cloud
    azure_cloud.reset()


@pytest.fixture
def workspace(azure: Azure) -> Workspace:
    """A workspace of its own, with the compute ``cluster`` and the two datastores that every workspace has."""
    return azure.workspace()
