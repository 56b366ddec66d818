"""What the store knows of one entry: its files, what went into its key, and what the step said."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from picual import fingerprint


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """``manifest.json`` of an entry. ``ingredients`` is the value whose digest is ``key``."""

    key: str
    label: str  # kind of work: `pass lora`, `verify AdapterMerged`, `evaluate accuracy`
    ingredients: Mapping[str, Any]
    digest: str  # of the content, names included
    files: Mapping[str, Mapping[str, Any]]  # name -> {"size": bytes, "sha256": hex}
    value: Mapping[str, Any] = field(default_factory=dict)  # what the task returned
    seconds: float = 0.0
    peak_rss: int = 0
    peak_anonymous: int = 0
    made_in: Mapping[str, Any] = field(default_factory=dict)  # versions and processor of its worker
    created: str = ""  # ISO time, of the entry and not of its content

    def write(self, folder: Path) -> None:
        """Put the manifest into an entry's folder, which is yet to be published; a power cut leaves it whole."""
        text = json.dumps({"version": 1, **vars(self)}, ensure_ascii=False)
        with (folder / "manifest.json").open("w", encoding="utf-8", newline="\n") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of an entry's folder.

        Raises:
            OSError, ValueError, TypeError: It is missing, or not a manifest.
        """
        wire = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if wire.pop("version", None) != 1:
            raise ValueError("unknown manifest version")
        return cls(**wire)


def seal_files(content: Path) -> dict[str, dict[str, Any]]:
    """Hash every file below ``content``, sync it and make it read-only; names are relative, with forward slashes.

    All three at one opening: a search seals some ten thousands of small files.
    """
    files = {}
    for path in fingerprint.files_under(content):
        with io.FileIO(
            path, "r+" if sys.platform == "win32" else "r"
        ) as file:  # that syncs only what may be written
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
            files[path.relative_to(content).as_posix()] = {"size": file.tell(), "sha256": digest}
        path.chmod(0o444)
    return files


def digest_of(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one digest for the files of an entry."""
    return fingerprint.folder_digest({name: str(facts["sha256"]) for name, facts in files.items()})


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Say how two ingredient values differ, one line a leaf: ``fields.block 32 -> 64``."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines: list[str] = []
        for key in dict.fromkeys([*old, *new]):
            inner = f"{path}.{key}" if path else str(key)
            lines += differences(old.get(key), new.get(key), inner)
        return lines
    return [] if old == new else [f"{path} {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    is_digest = len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)
    return text[:8] if is_digest else text if len(text) <= 40 else text[:37] + "..."
