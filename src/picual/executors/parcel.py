"""A job on its way to another machine and its result on the way back.

The driver's paths mean nothing elsewhere. In a parcel each stands as ``picual-input://N/...``, N being one of its
inputs: a folder or a file, told by the digests of its files. A node puts the files where it likes and writes the
job with its own paths.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import filelock

from picual import __version__, _atomic, fingerprint
from picual.errors import EnvironmentFault
from picual.executors.host import Files
from picual.executors.job import Job, Result
from picual.executors.share import FolderShare, Share

SCHEME = "picual-input://"
ATTEMPTS = 3
PAUSE = 1.0  # seconds before a blob is asked for again


def send(share: Share, folder: Path, files: Callable[[Path], Files]) -> str:
    """Put a job and all it reads into the share; return its name there.

    The result of this very job stays, if it ended well: the driver that asked for it was gone before it came.

    Args:
        share: Where to.
        folder: Of the job, with ``job.json``.
        files: Tells size and digest of every file below a path.
    """
    job = Job.read(folder)
    roots = [Path(root) for root in job.reads]
    read = [files(root) for root in roots]
    sources = {
        str(facts["sha256"]): root if root.is_file() else root / name
        for root, inside in zip(roots, read, strict=True)
        for name, facts in inside.items()
    }
    for digest in share.lacking(sources):
        share.put(sources[digest], digest)
    wire = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    numbers = {root: f"{SCHEME}{number}" for number, root in enumerate(job.reads)}
    wire["payload"], wire["reads"] = _with_roots(wire["payload"], numbers), []
    inputs = [{"file": root.is_file(), "files": dict(inside)} for root, inside in zip(roots, read, strict=True)]
    text = json.dumps({"version": 1, "picual": __version__, "job": wire, "inputs": inputs}, indent=1)
    name = folder.name
    ended = result_of(share, name)
    if ended is not None and (ended.error is not None or share.read(f"jobs/{name}/parcel.json") != text):
        share.remove(f"jobs/{name}/result.json")  # of an earlier attempt
    share.write(f"jobs/{name}/parcel.json", text)
    return name


def result_of(share: Share, name: str) -> Result | None:
    """Return how a job ended, or None while it has not."""
    text = share.read(f"jobs/{name}/result.json")
    return None if text is None else Result(**json.loads(text)["result"])


def fetch(share: Share, name: str, folder: Path) -> Result:
    """Bring what a finished job made into its folder; what is there already, whole, is not fetched again.

    Raises:
        EnvironmentFault: A file could not be had.
    """
    text = share.read(f"jobs/{name}/result.json")
    assert text is not None
    found = json.loads(text)
    kept = _digests_kept(folder)
    for file, facts in found["files"].items():
        place = folder / "out" / file
        if kept.get(file) != facts["sha256"]:
            patiently(functools.partial(share.get, facts["sha256"], facts["size"], place))
            kept[file] = facts["sha256"]
            _atomic.write_json(folder / "fetched.json", kept)
    log = share.read(f"jobs/{name}/log.txt")
    if log is not None:
        (folder / "log.txt").write_text(log, encoding="utf-8")
    result = Result(**found["result"])
    result.write(folder)
    return result


def _digests_kept(folder: Path) -> dict[str, str]:
    """Return what an earlier attempt has fetched and is still there."""
    try:
        kept = json.loads((folder / "fetched.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: digest for name, digest in kept.items() if (folder / "out" / name).is_file()}


def forget(share: Share, name: str) -> None:
    """Remove a job from the share; its blobs stay, as later jobs read them."""
    share.remove(f"jobs/{name}")


def unpack(share: FolderShare, name: str, cache: Path) -> Path:
    """Make the job's folder on this node, with all it reads, and return it.

    Raises:
        EnvironmentFault: The parcel is of another Picual, or a file could not be had.
    """
    text = share.read(f"jobs/{name}/parcel.json")
    if text is None:
        raise EnvironmentFault(
            f"job {name} is not in the share as this node sees it", where=str(share.root),
            hint="give a folder that every node mounts at the same place: `share: DIR`",
        )  # fmt: skip
    parcel = json.loads(text)
    if parcel["picual"] != __version__:
        raise EnvironmentFault(
            f"this node has Picual {__version__} and the driver {parcel['picual']}",
            hint=f"on the node: pip install picual=={parcel['picual']}",
        )
    roots = {f"{SCHEME}{n}": str(_placed(share, one, cache)) for n, one in enumerate(parcel["inputs"])}
    wire = {**parcel["job"], "payload": _with_roots(parcel["job"]["payload"], roots)}
    folder = cache / "work" / name
    _atomic.remove(folder)
    (folder / "out").mkdir(parents=True)
    (folder / "scratch").mkdir()
    _atomic.write_json(folder / "job.json", wire)
    return folder


def _placed(share: FolderShare, given: Mapping[str, Any], cache: Path) -> Path:
    """Return the folder or file of one input on this node; its files are links to the node's own blobs."""
    files: Files = given["files"]
    home = cache / "inputs" / fingerprint.folder_digest({n: str(f["sha256"]) for n, f in files.items()})[:32]
    home.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{home}.lock"):  # jobs beside each other often read the same
        if not home.is_dir():
            with _atomic.new_folder(home) as folder:
                for name, facts in files.items():
                    _own(share, cache, facts, folder / name)
    return home / next(iter(files)) if given["file"] else home


def _own(share: FolderShare, cache: Path, facts: Mapping[str, Any], place: Path) -> None:
    digest, size = str(facts["sha256"]), int(facts["size"])
    blobs = FolderShare(cache)
    if blobs.lacking([digest]):
        patiently(lambda: share.get(digest, size, blobs.blob(digest)))
    place.parent.mkdir(parents=True, exist_ok=True)
    blobs.get(digest, size, place)


def patiently(work: Callable[[], None]) -> None:
    """Do what may fail for a moment, a few times."""
    for attempt in range(ATTEMPTS):
        try:
            work()
            return
        except (OSError, EnvironmentFault):
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(PAUSE * (attempt + 1))


def _with_roots(value: Any, roots: Mapping[str, str]) -> Any:
    """Return a JSON value with every path that begins with a root beginning with what stands for it."""
    if isinstance(value, Mapping):
        return {key: _with_roots(item, roots) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_roots(item, roots) for item in value]
    if isinstance(value, str):
        # The longest first: one root may lie in another.
        for root in sorted(roots, key=len, reverse=True):
            if value == root or value.startswith(f"{root}/"):
                return roots[root] + value[len(root) :]
    return value
