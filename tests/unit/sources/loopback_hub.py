"""A model hub on this machine: enough of the API for huggingface_hub to list and download a repository."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = ".safetensors"


class LoopbackHub:
    """Serves folders as repositories; ``requests`` holds (method, path, token) of every call."""

    def __init__(self, repositories: Mapping[str, Path], gated: frozenset[str] = frozenset()) -> None:
        self.repositories = dict(repositories)
        self.gated = gated
        self.requests: list[tuple[str, str, str]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub._answer(self, body=True)

            def do_HEAD(self) -> None:
                hub._answer(self, body=False)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = request.path.partition("?")[0]
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.requests.append((request.command, path, token))
        parts = path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        owner_and_name = parts[2:4] if api else parts[:2]
        rest = parts[4:] if api else parts[2:]
        repo = "/".join(owner_and_name)
        if repo in self.gated:
            return _send(request, 403, b"{}", {"X-Error-Code": "GatedRepo"}, body=body)
        if repo not in self.repositories:
            return _send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"}, body=body)
        if rest[1] not in {"main", COMMIT}:
            return _send(request, 404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body=body)
        folder = self.repositories[repo]
        if api:
            content = json.dumps(_tree(folder) if rest[0] == "tree" else _info(repo, folder)).encode()
            return _send(request, 200, content, {"Content-Type": "application/json"}, body=body)
        file = folder / "/".join(rest[2:])
        facts = {"X-Repo-Commit": COMMIT, "ETag": f'"{_blob(file)}"', "Accept-Ranges": "bytes"}
        return _send(request, 200, file.read_bytes(), facts, body=body)


def _send(
    request: BaseHTTPRequestHandler, status: int, content: bytes, headers: Mapping[str, str], *, body: bool
) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    if body:
        request.wfile.write(content)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _blob(file: Path) -> str:
    """Return what names a file's blob: its SHA-256 if it is large, else git's digest."""
    content = file.read_bytes()
    if file.suffix == LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _tree(folder: Path) -> list[dict[str, Any]]:
    listed = []
    for file in _files(folder):
        size = file.stat().st_size
        entry = {"type": "file", "path": file.relative_to(folder).as_posix(), "size": size, "oid": "0" * 40}
        if file.suffix == LARGE:
            entry["lfs"] = {"oid": _blob(file), "size": size, "pointerSize": 130}
        else:
            entry["oid"] = _blob(file)
        listed.append(entry)
    return listed


def _info(repo: str, folder: Path) -> dict[str, Any]:
    siblings = []
    for file in _files(folder):
        size = file.stat().st_size
        entry = {"rfilename": file.relative_to(folder).as_posix(), "size": size, "blobId": "0" * 40}
        if file.suffix == LARGE:
            entry["lfs"] = {"sha256": _blob(file), "size": size, "pointerSize": 130}
        else:
            entry["blobId"] = _blob(file)
        siblings.append(entry)
    return {"id": repo, "sha": COMMIT, "siblings": siblings, "private": False}
