"""A container on this machine: the same worker, in an image that has what the passes need.

Not run where this was written: no container engine was there. The command line is tested, what the engine does
with it is not.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NoReturn

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
ANSWER_SECONDS = 20.0
ENGINE_FAILED = 125  # how `docker run` and `podman run` end when the container was never started


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
        """Say when no engine is here, or none that answers."""
        del state
        try:
            _engine()
        except PicualError as error:
            return [error]
        return []

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
            DeviceUnavailable: No engine is here, or none that answers.
            EnvironmentFault: The image cannot be built.
        """
        engine = _engine()
        if self.dockerfile is not None:
            done = subprocess.run([engine, *self.build_command()], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                last = _last(done.stderr)
                command = shlex.join([engine, *self.build_command()])
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
        log_file = folder / "log.txt"
        with (
            log_file.open("ab") as log,
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
            _no_result(job.label, container.returncode, log_file)
        return Result.read(folder)

    def close(self) -> None:
        """Nothing is held between two jobs."""


def _no_result(label: str, code: int, log: Path) -> NoReturn:
    """Raise what a container that left no result means: the engine's fault, or the step's."""
    hint = f"tail -n 40 {shlex.quote(str(log))}"
    if code == ENGINE_FAILED:
        told = _last(log.read_text(encoding="utf-8", errors="replace"))
        raise EnvironmentFault(
            f"the engine could not run a container for `{label}`: {told}", where=str(log), hint=hint
        )
    what = f"the container of `{label}` ended with code {code} and left no result"
    raise JobLost(what, where=str(log), hint=hint)


def _engine() -> str:
    """Return the first engine that answers.

    Raises:
        DeviceUnavailable: None is here, or none answers.
    """
    found = [path for name in ENGINES if (path := shutil.which(name))]
    if not found:
        hint = "install Docker or Podman, or add `--host local` to run without"
        raise DeviceUnavailable("no container engine is here", hint=hint)
    silent = {path: told for path in found if (told := _silence(path)) is not None}
    for path in found:
        if path not in silent:
            return path
    raise DeviceUnavailable(
        f"the container engine does not answer: {silent[found[0]]}",
        where=found[0],
        hint="start it, or add `--host local` to run without",
    )


def _silence(engine: str) -> str | None:
    """Return what an engine says instead of an answer; None if it answers."""
    try:
        done = subprocess.run(
            [engine, "version"], capture_output=True, text=True, errors="replace", timeout=ANSWER_SECONDS,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"nothing in {ANSWER_SECONDS:.0f} s"
    except OSError as error:
        return error.strerror or str(error)
    return None if done.returncode == 0 else _last(done.stderr or done.stdout)


def _last(text: str) -> str:
    """Return the last line that says something: engines end with a pointer to their own help."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "--help'" not in line]
    return lines[-1] if lines else "no message"
