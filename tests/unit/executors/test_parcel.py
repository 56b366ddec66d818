"""Jobs that travel: through a real share, to a node program of its own, and back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from picual import fingerprint
from picual.errors import EnvironmentFault
from picual.executors import parcel
from picual.executors.host import Files
from picual.executors.interpreter import own_code
from picual.executors.job import Job
from picual.executors.share import FolderShare
from picual.models import HfModel
from picual.testing.tiny import tiny_model

NODE = [sys.executable, "-m", "picual.executors.node"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HfModel:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def share(tmp_path: Path) -> FolderShare:
    return FolderShare(tmp_path / "share")


def files(path: Path) -> Files:
    found = [path] if path.is_file() else list(fingerprint.files_under(path))
    root = path.parent if path.is_file() else path
    return {
        file.relative_to(root).as_posix(): {"size": file.stat().st_size, "sha256": fingerprint.file_digest(file)}
        for file in found
    }


def merge_job(folder: Path, model: HfModel, adapter: Path, **changes: object) -> Path:
    given = {"kind": "hf-adapter", "path": str(adapter), "base": model.to_wire()}
    payload = {"pass": "merge-adapter", "fields": {}, "model": given, "target": {}, "data": {}}
    reads = (str(adapter), str(model.path))
    Job(kind="pass", label="merge", payload=payload, reads=reads, **changes).write(folder)  # type: ignore[arg-type]
    return folder


def on_a_node(share: FolderShare, name: str, cache: Path) -> int:
    code = own_code(share.root)
    environment = {**os.environ, "PYTHONPATH": str(code)}
    return subprocess.run(
        [*NODE, str(share.root), name, "--cache", str(cache)], env=environment, check=False
    ).returncode


@pytest.fixture
def adapter(tmp_path: Path, model: HfModel, random_adapter: Callable[..., object]) -> Path:
    random_adapter(model, tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_job_gives_the_same_bytes_on_a_node_that_cannot_see_the_drivers_files(
    tmp_path: Path, share: FolderShare, model: HfModel, adapter: Path
) -> None:
    here = merge_job(tmp_path / "here", model, adapter)
    subprocess.run([sys.executable, "-m", "picual.executors.worker", str(here)], check=True)
    away = merge_job(tmp_path / "away", model, adapter)
    name = parcel.send(share, away, files)
    hidden = tmp_path / "hidden"
    adapter.rename(hidden)  # whatever still reads the driver's own path fails

    code = on_a_node(share, name, tmp_path / "cache")
    result = parcel.fetch(share, name, away)

    assert code == 0
    assert result.error is None
    assert files(away / "out") == files(here / "out")
    assert str(tmp_path / "here") not in json.dumps(dict(result.value))


def test_a_node_fetches_only_what_it_lacks(
    tmp_path: Path, share: FolderShare, model: HfModel, adapter: Path
) -> None:
    name = parcel.send(share, merge_job(tmp_path / "one", model, adapter), files)
    parcel.unpack(share, name, tmp_path / "cache")
    shutil.copytree(model.path, tmp_path / "other")
    (tmp_path / "other" / "README.md").write_text("a file more")
    two = parcel.send(share, merge_job(tmp_path / "two", HfModel(tmp_path / "other"), adapter), files)
    new = fingerprint.file_digest(tmp_path / "other" / "README.md")
    for blob in share.root.glob("blobs/*/*"):
        if blob.name != new:
            blob.unlink()  # whoever fetches what he has already does not find it

    folder = parcel.unpack(share, two, tmp_path / "cache")

    assert (folder / "job.json").is_file()


def test_a_blob_that_was_damaged_in_the_share_is_removed_and_named(
    tmp_path: Path, share: FolderShare, model: HfModel, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parcel, "PAUSE", 0.0)
    folder = merge_job(tmp_path / "one", model, adapter)
    name = parcel.send(share, folder, files)
    digest = fingerprint.file_digest(model.path / "config.json")
    blob = share.blob(digest)
    content = blob.read_bytes()
    blob.unlink()
    blob.write_bytes(content[:-1] + b"!")

    with pytest.raises(EnvironmentFault, match=digest[:12]):
        parcel.unpack(share, name, tmp_path / "cache")
    parcel.send(share, folder, files)

    assert parcel.unpack(share, name, tmp_path / "cache").is_dir()
    assert (model.path / "config.json").read_bytes() == content


@pytest.mark.parametrize(("changes", "said"), [
    ({"device": "linux-sparc"}, "of another kind"),
    ({"libraries": {"torch": "1.0"}}, "torch"),
])  # fmt: skip
def test_a_node_that_is_not_what_the_key_says_refuses_the_job(
    tmp_path: Path, share: FolderShare, model: HfModel, adapter: Path, changes: dict[str, object], said: str
) -> None:
    folder = merge_job(tmp_path / "one", model, adapter, **changes)
    name = parcel.send(share, folder, files)

    code = on_a_node(share, name, tmp_path / "cache")
    result = parcel.fetch(share, name, folder)

    assert code == 3
    assert result.error is not None
    assert said in result.error["what"]


def test_a_parcel_of_another_picual_is_refused(
    tmp_path: Path, share: FolderShare, model: HfModel, adapter: Path
) -> None:
    name = parcel.send(share, merge_job(tmp_path / "one", model, adapter), files)
    written = json.loads((share.root / "jobs" / name / "parcel.json").read_text())
    share.write(f"jobs/{name}/parcel.json", json.dumps({**written, "picual": "0.0.1"}))

    with pytest.raises(EnvironmentFault, match=r"the driver 0\.0\.1") as caught:
        parcel.unpack(share, name, tmp_path / "cache")

    assert "pip install picual==0.0.1" in caught.value.hint


def test_a_result_that_was_cut_while_it_was_fetched_is_fetched_on(
    tmp_path: Path, share: FolderShare, model: HfModel, adapter: Path
) -> None:
    got: list[str] = []

    class Counted(FolderShare):
        def get(self, digest: str, size: int, place: Path) -> None:
            got.append(place.name)
            super().get(digest, size, place)

    folder = merge_job(tmp_path / "one", model, adapter)
    name = parcel.send(share, folder, files)
    assert on_a_node(share, name, tmp_path / "cache") == 0
    parcel.fetch(Counted(share.root), name, folder)
    assert len(got) == len(list((folder / "out").iterdir()))
    got.clear()
    (folder / "out" / "config.json").unlink()

    parcel.fetch(Counted(share.root), name, folder)

    assert got == ["config.json"]
