"""The store: whole entries or none, damage named and set aside, one holder a key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from picual import fingerprint
from picual.errors import Busy, Corrupt
from picual.store.local import Entry, Store, hand_out

INGREDIENTS = {"pass": "lora", "fields": {"rank": 8}}


def kept(store: Store, text: str = "weights") -> Entry:
    folder = store.work(fingerprint.digest(INGREDIENTS)) / "out"
    folder.mkdir()
    (folder / "model.bin").write_text(text)
    return store.publish(folder, ingredients=INGREDIENTS, label="pass lora", value={"journal": []})


def test_what_is_published_is_found_by_the_digest_of_its_ingredients(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept(store)

    entry = Store(tmp_path).find(fingerprint.digest(INGREDIENTS))

    assert entry is not None
    assert (entry.content / "model.bin").read_text() == "weights"


def test_a_job_s_folder_becomes_the_entry_without_what_only_the_job_needed(tmp_path: Path) -> None:
    store, key = Store(tmp_path), fingerprint.digest(INGREDIENTS)
    folder = store.work(key)
    (folder / "job.json").write_text("{}")
    for name in ("scratch", "content"):  # the second of a run that was killed while it published
        (folder / name).mkdir()
        (folder / name / "half").write_text("half")

    entry = kept(store)

    assert sorted(path.name for path in entry.folder.iterdir()) == ["content", "manifest.json"]
    assert [path.name for path in entry.content.iterdir()] == ["model.bin"]
    assert not folder.exists()


def test_a_lock_of_what_was_published_leaves_no_file(tmp_path: Path) -> None:
    store, key = Store(tmp_path), fingerprint.digest(INGREDIENTS)

    with store.lock(key, what="it"):
        before = list((tmp_path / "locks").iterdir())
        kept(store)

    assert len(before) == 1
    assert not list((tmp_path / "locks").iterdir())


def test_a_flipped_byte_is_named_and_the_entry_set_aside(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = kept(store)
    file = entry.content / "model.bin"
    file.chmod(0o644)
    file.write_text("weighty")

    with pytest.raises(Corrupt, match=r"`model\.bin` does not match its digest"):
        store.verify(entry)
    assert store.find(entry.manifest.key) is None


def test_a_file_cut_short_is_no_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = kept(store)
    (entry.content / "model.bin").chmod(0o644)
    (entry.content / "model.bin").write_text("we")

    assert store.find(entry.manifest.key) is None


def test_why_not_names_the_field_that_changed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept(store)

    assert store.why_not({"pass": "lora", "fields": {"rank": 16}}, "pass lora") == "fields.rank 8 -> 16"


def test_a_held_key_is_busy_and_names_its_holder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with (
        store.lock("abc", what="`lora`"),
        pytest.raises(Busy, match=r"held by pid \d+"),
        store.lock("abc", what="it"),
    ):
        pass


def test_data_of_onnx_files_are_handed_out_under_one_name_only(tmp_path: Path) -> None:
    """Readers such as onnx_ir refuse external data that have several."""
    for name in ("model.onnx.data", "model.safetensors"):
        (tmp_path / "content").mkdir(exist_ok=True)
        (tmp_path / "content" / name).write_text("weights")

    hand_out(tmp_path / "content", tmp_path / "out", small=0)

    assert (tmp_path / "out" / "model.onnx.data").stat().st_nlink == 1
    assert (tmp_path / "out" / "model.safetensors").stat().st_nlink == 2


def test_what_is_handed_out_has_the_same_bytes(tmp_path: Path) -> None:
    entry = kept(Store(tmp_path / "store"))
    hand_out(entry.content, tmp_path / "out")

    assert (tmp_path / "out" / "model.bin").read_bytes() == b"weights"


def test_pruning_takes_what_a_killed_run_left_behind_long_ago(tmp_path: Path) -> None:
    store = Store(tmp_path)
    beside = kept(store).folder.parent
    halves = [beside / f".half-{age}.tmp" for age in ("old", "new")]
    for half in halves:
        half.mkdir()
    os.utime(halves[0], (0, 0))

    store.prune()

    assert [half.exists() for half in halves] == [False, True]
