"""What goes from a share, and what a job under way still needs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from picual import fingerprint
from picual.cli.main import group
from picual.executors.share import FolderShare
from picual.executors.share_pruning import prune_share


def blob(share: FolderShare, text: str) -> Path:
    file = share.root / "given" / text
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    digest = fingerprint.file_digest(file)
    share.put(file, digest)
    file.unlink()  # else it would have another name
    return share.blob(digest)


def test_what_was_used_today_stays(tmp_path: Path) -> None:
    kept = blob(FolderShare(tmp_path), "weights")

    assert prune_share(tmp_path) == 0
    assert kept.exists()


def test_what_no_job_speaks_of_goes_with_its_bytes(tmp_path: Path) -> None:
    share = FolderShare(tmp_path)
    read, made, other = blob(share, "read"), blob(share, "made"), blob(share, "other")
    inputs = [{"file": False, "files": {"model.bin": {"size": 4, "sha256": read.name}}}]
    share.write("jobs/one/parcel.json", json.dumps({"inputs": inputs}))
    share.write("jobs/two/result.json", json.dumps({"files": {"out.bin": {"size": 4, "sha256": made.name}}}))

    freed = prune_share(tmp_path, unused=-1)

    assert freed == len("other")
    assert (read.exists(), made.exists(), other.exists()) == (True, True, False)


def test_what_has_another_name_frees_nothing(tmp_path: Path) -> None:
    gone = blob(FolderShare(tmp_path / "share"), "weights")
    os.link(gone, tmp_path / "entry")

    assert prune_share(tmp_path / "share", unused=-1) == 0
    assert not gone.exists()
    assert (tmp_path / "entry").read_text() == "weights"


def test_a_node_s_copies_of_inputs_go_with_their_blobs(tmp_path: Path) -> None:
    cached = blob(FolderShare(tmp_path), "weights")
    place = tmp_path / "inputs" / ("ab" * 16) / "model.bin"
    place.parent.mkdir(parents=True)
    os.link(cached, place)

    assert prune_share(tmp_path, unused=-1) == len("weights")
    assert not place.parent.exists()
    assert not cached.exists()


def test_a_node_s_inputs_stay_while_its_job_reads_them(tmp_path: Path) -> None:
    place = tmp_path / "inputs" / ("ab" * 16) / "model.bin"
    place.parent.mkdir(parents=True)
    place.write_text("weights")
    job = tmp_path / "work" / "one" / "job.json"
    job.parent.mkdir(parents=True)
    job.write_text(json.dumps({"payload": {"model": str(place)}}))

    prune_share(tmp_path, unused=-1)

    assert place.exists()


def test_a_folder_that_is_no_share_loses_nothing(tmp_path: Path) -> None:
    mine = [tmp_path / "inputs" / "photos" / "one.jpg", tmp_path / "blobs" / "ab" / "notes.txt"]
    for file in mine:
        file.parent.mkdir(parents=True)
        file.write_text("mine")

    assert prune_share(tmp_path, unused=-1) == 0
    assert all(file.exists() for file in mine)


def test_the_command_looks_at_the_store_s_share_and_at_those_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = [blob(FolderShare(place), "old") for place in (tmp_path / "store/hosts/share", tmp_path / "cache")]
    words = ["store", "prune", "--store", str(tmp_path / "store"), "--share", str(tmp_path / "cache"), "--json"]

    def run() -> list[dict[str, object]]:
        told: list[dict[str, object]] = json.loads(CliRunner().invoke(group, words).stdout)
        return told

    today = run()
    real = time.time()  # nobody but the file system sets when a name was last given: two days go by instead
    monkeypatch.setattr("picual.executors.share_pruning.time.time", lambda: real + 2 * 86_400)
    later = run()

    assert today == []
    assert [one["bytes"] for one in later] == [3, 3]
    assert not any(one.exists() for one in blobs)
