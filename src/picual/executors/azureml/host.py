"""Azure Machine Learning: each job is a command job on one of the workspace's computes.

Not run against the service itself: what is sent is tested with Azure's own client library against a loopback that
runs the jobs. Models travel by a folder of a datastore, which the job mounts and this machine reads and writes by
the blob service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from picual.errors import PicualError
from picual.executors.azureml.settings import AzureMlSettings
from picual.executors.base import Executor
from picual.executors.host import Surroundings


@dataclass(frozen=True, kw_only=True)
class AzureMl(AzureMlSettings):
    """A compute of a workspace; its fields are those of ``AzureMlSettings``."""

    def obstacles(self, state: Path) -> Sequence[PicualError]:
        """Say, too, what is wrong in the conda file: the job would say it after the steps before it have run."""
        found = super().obstacles(state)
        if found:
            return found
        from picual.executors.azureml.jobs import environment_of

        try:
            environment_of(self)
        except PicualError as error:
            return [error.located(str(self.conda_file))]
        return []

    def executor(self, around: Surroundings) -> Executor:
        """Return an executor on the compute.

        Raises:
            EnvironmentFault: The workspace or the compute cannot be reached.
        """
        from picual.executors.azureml.executor import AzureMlExecutor

        return AzureMlExecutor(self, around)
