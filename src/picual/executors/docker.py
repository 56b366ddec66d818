"""A container on this machine: the same worker, in an image that has what the passes need.

Not run where this was written: no container engine was there. The command line is tested, what the engine does
with it is not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from picual.errors import BadValue, DeviceUnavailable, EnvironmentFault, Interrupted, JobLost, PicualError
from picual.executors.base import Executor, OnEvent
from picual.executors.events import Tail
from picual.executors.host import Host, Surroundings
from picual.executors.interpreter import own_code
from picual.executors.job import Job, Result
from picual.executors.process import worker_environment
from picual.space import Settings, param

ENGINES = ("docker", "podman")
POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Docker(Host):
    """An image, or what it is built from."""

    kind: ClassVar[str] = "docker"

    image: str | None = param(None, help="Image to run; with `dockerfile`, the name it is built under.")
    dockerfile: str | None = param(None, help="File in `context` that the image is built from.")
    context: str | None = param(None, help="Folder that the image is built in.", role="path")
    build_args: Mapping[str, str] = param(Settings(), help="Arguments of the build.")
    run: Mapping[str, str] = param(Settings(), help="Further options of `docker run`, by name.")
    gpus: str | None = param(None, help="GPUs that the container sees, as `docker run --gpus` takes it.")
    python: str = param("python", help="The Python in the image.")

    def __post_init__(self) -> None:
        """Refuse a host without an image."""
        if self.image is None and self.dockerfile is None:
            raise BadValue("it needs `image` or `dockerfile`", hint="`image: my/picual:latest`")
        if self.dockerfile is not None and self.context is None:
            raise BadValue("`dockerfile` needs the folder it is built in", hint="`context: docker`")

    def obstacles(self, state: Path) -> Sequence[PicualError]:
        """Say when no engine is here."""
        del state
        return [] if _engine() else [_no_engine()]

    def has(self, module: str, state: Path) -> bool:
        """Say yes: the image knows, and says so when a job runs."""
        del module, state
        return True

    def version_of(self, distribution: str, state: Path) -> str:
        """Return the image's name in place of a version: what it holds is not known before it runs."""
        del distribution, state
        return self.tag

    @property
    def tag(self) -> str:
        """Name of the image."""
        return self.image or "picual-worker"

    def executor(self, around: Surroundings) -> Executor:
        """Return what runs jobs in containers; builds the image first, where the recipe says from what.

        Raises:
            DeviceUnavailable: No engine is here.
            EnvironmentFault: The image cannot be built.
        """
        engine = _engine()
        if engine is None:
            raise _no_engine()
        if self.dockerfile is not None:
            done = subprocess.run([engine, *self.build_command()], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                command = " ".join([engine, *self.build_command()])
                raise EnvironmentFault(
                    f"the image could not be built: {last}", where=self.dockerfile, hint=command
                )
        return DockerExecutor(self, engine, own_code(around.state))

    def build_command(self) -> list[str]:
        """Return the arguments of the engine that build the image."""
        arguments = [part for key, value in self.build_args.items() for part in ("--build-arg", f"{key}={value}")]
        context = Path(self.context or ".")
        return ["build", "-t", self.tag, "-f", str(context / (self.dockerfile or "")), *arguments, str(context)]

    def run_command(self, job: Job, folder: Path, code: Path, name: str) -> list[str]:
        """Return the arguments of the engine that run one job; every path is the same inside as outside."""
        reads = [path for path in job.reads if not Path(path).is_relative_to(folder)]
        mounts = [f"{folder}:{folder}", f"{code}:{code}:ro", *(f"{path}:{path}:ro" for path in reads)]
        variables = {**worker_environment(job), "PYTHONPATH": str(code), "HOME": str(folder / "scratch")}
        user = ["--user", f"{os.getuid()}:{os.getgid()}"] if hasattr(os, "getuid") else []
        return [
            "run", "--rm", "--name", name, *user, *(["--gpus", self.gpus] if self.gpus else []),
            *(["--network", "none"] if job.offline else []),
            *(["--memory", str(job.memory_limit)] if job.memory_limit else []),
            *(part for mount in mounts for part in ("--volume", mount)),
            *(part for key, value in variables.items() for part in ("--env", f"{key}={value}")),
            *(part for key, value in self.run.items() for part in (f"--{key}", value)),
            self.tag, self.python, "-m", "picual.executors.worker", str(folder),
        ]  # fmt: skip


class DockerExecutor:
    """Runs each job in a container of its own."""

    def __init__(self, host: Docker, engine: str, code: Path) -> None:
        self._host, self._engine, self._code = host, engine, code

    def run(self, folder: Path, on_event: OnEvent) -> Result:
        """Run the job, handing over events as they come."""
        job, name = Job.read(folder), f"picual-{folder.name[:12]}-{os.getpid()}"
        command = [self._engine, *self._host.run_command(job, folder, self._code, name)]
        tail = Tail(folder / "events.jsonl")
        with (
            (folder / "log.txt").open("ab") as log,
            subprocess.Popen(command, stdout=log, stderr=log) as container,
        ):
            try:
                while container.poll() is None:
                    tail.hand_over(on_event)
                    time.sleep(POLL_SECONDS)
            except KeyboardInterrupt:
                subprocess.run([self._engine, "kill", name], capture_output=True, check=False)
                raise Interrupted(f"interrupted in `{job.label}`", hint="the same command continues it") from None
        tail.hand_over(on_event)
        if not (folder / "result.json").exists():
            raise JobLost(
                f"the container of `{job.label}` ended with code {container.returncode} and left no result",
                where=str(folder / "log.txt"), hint=f"tail -n 40 {folder / 'log.txt'}",
            )  # fmt: skip
        return Result.read(folder)

    def close(self) -> None:
        """Nothing is held between two jobs."""


def _engine() -> str | None:
    return next((found for name in ENGINES if (found := shutil.which(name))), None)


def _no_engine() -> DeviceUnavailable:
    return DeviceUnavailable(
        "no container engine is here", hint="install Docker or Podman, or add `--host local` to run without"
    )
