"""Blob storage in memory: what azure-storage-blob asks for, and enough of ADLS Gen2 to read the same blobs."""

from __future__ import annotations

import base64
import hashlib
import itertools
import secrets
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from loopback.identity import Identity
from loopback.server import Answer, Request, Server

ACCOUNT = "loopbackaccount"
STORAGE = "core.localhost"


@dataclass(frozen=True)
class Blob:
    """One blob and its properties."""

    content: bytes
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    md5: bytes | None = None

    def headers(self) -> dict[str, str]:
        return {
            "etag": self.etag,
            "last-modified": formatdate(1_800_000_000, usegmt=True),
            "x-ms-blob-type": "BlockBlob",
            "x-ms-creation-time": formatdate(1_800_000_000, usegmt=True),
            "x-ms-version": "2024-11-04",
            "content-type": "application/octet-stream",
            "accept-ranges": "bytes",
            **{f"x-ms-meta-{name}": value for name, value in self.metadata.items()},
        }


class Ranged(NamedTuple):
    """One read of a blob: its name and the bytes asked for."""

    blob: str
    start: int
    end: int  # inclusive


Container = dict[str, Blob]


class Blobs:
    """Every container of every account: ``containers["name"]["path/of/blob"]``."""

    def __init__(self, server: Server, identity: Identity) -> None:
        self.containers: dict[str, Container] = {}
        self.reads: list[Ranged] = []
        self.anonymous = False
        self._server = server
        self._identity = identity
        self._signatures: set[str] = set()
        self._blocks: dict[tuple[str, str], dict[str, bytes]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        for kind in ("blob", "dfs"):
            for host in (rf"[\w-]+\.{kind}\.core\.localhost", rf"onelake\.{kind}\.fabric\.localhost"):
                server.route("containers", "GET HEAD PUT", r"/(?P<container>[^/]+)/?", self._container, host=host)
                path = r"/(?P<container>[^/]+)/(?P<blob>.+)"
                server.route("blobs", "GET HEAD PUT DELETE", path, self._blob, host=host)

    def endpoint(self) -> str:
        return f"{STORAGE}:{self._server.port}"

    def url(self, container: str, blob: str = "") -> str:
        return f"https://{ACCOUNT}.blob.{self.endpoint()}/{container}" + (f"/{blob}" if blob else "")

    def sas(self) -> str:
        """Return a new shared access signature, good for every container."""
        signature = secrets.token_hex(16)
        self._signatures.add(signature)
        return f"sv=2024-11-04&sr=c&sp=racwdl&se=2099-01-01T00%3A00%3A00Z&sig={signature}"

    def revoke(self) -> None:
        """Make every signature invalid, as if its time were over."""
        self._signatures.clear()

    def put(
        self, container: str, name: str, content: bytes, metadata: Mapping[str, str] | None = None, *,
        md5: bytes | None = None, checked: bool = True,
    ) -> Blob:  # fmt: skip
        """Store a blob; with ``checked``, its MD5 is that of the content where none is given."""
        digest = md5 or (hashlib.md5(content, usedforsecurity=False).digest() if checked else None)
        blob = Blob(content, f'"0x{next(self._numbers):016X}"', dict(metadata or {}), digest)
        self.containers.setdefault(container, {})[name] = blob
        return blob

    def put_folder(self, container: str, prefix: str, folder: Path) -> None:
        """Store every file of a folder, in subfolders too."""
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(container, f"{prefix.rstrip('/')}/{file.relative_to(folder).as_posix()}", file.read_bytes())

    def under(self, container: str, prefix: str) -> dict[str, bytes]:
        """Return the contents below a path, named relative to it; a path that is a blob itself: under its name."""
        prefix = prefix.strip("/")
        found = self.containers.get(container, {})
        if prefix in found:
            return {prefix.rpartition("/")[2]: found[prefix].content}
        start = f"{prefix}/" if prefix else ""
        return {name[len(start) :]: blob.content for name, blob in found.items() if name.startswith(start)}

    def _refuses(self, request: Request) -> Answer | None:
        signed = request.query.get("sig") in self._signatures
        keyed = request.headers.get("authorization", "").startswith("SharedKey ")
        if signed or keyed or self.anonymous or self._identity.refuses(request) is None:
            return None
        return _error(403, "AuthenticationFailed", "the signature or token is not valid")

    def _container(self, request: Request) -> Answer:
        name = request.parts["container"]
        if refused := self._refuses(request):
            return refused
        if request.method == "PUT":
            self.containers.setdefault(name, {})
            return Answer(201)
        if name not in self.containers:
            return _error(404, "ContainerNotFound", "the specified container does not exist")
        if request.query.get("resource") == "filesystem":
            return self._paths(request)
        if request.query.get("comp") == "list":
            return self._list(request)
        return Answer(200, b"", {"etag": '"0x1"', "last-modified": formatdate(1_800_000_000, usegmt=True)})

    def _list(self, request: Request) -> Answer:
        prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter", "")
        names = sorted(n for n in self.containers[request.parts["container"]] if n.startswith(prefix))
        start = int(request.query.get("marker") or 0)
        most = int(request.query.get("maxresults") or 5000)
        shown, folders = [], []
        for name in names[start : start + most]:
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.append(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                shown.append(_entry(name, self.containers[request.parts["container"]][name]))
        shown += [
            f"<BlobPrefix><Name>{escape(name)}</Name></BlobPrefix>" for name in sorted(dict.fromkeys(folders))
        ]
        marker = str(start + most) if start + most < len(names) else ""
        text = (
            '<?xml version="1.0" encoding="utf-8"?><EnumerationResults>'
            f"<Blobs>{''.join(shown)}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>"
        )
        return Answer(200, text.encode(), {"content-type": "application/xml"})

    def _paths(self, request: Request) -> Answer:
        """List as ADLS Gen2 does."""
        found = self.containers[request.parts["container"]]
        start = request.query.get("directory", "").strip("/")
        paths = [
            {"name": name, "contentLength": str(len(blob.content)), "etag": blob.etag.strip('"')}
            for name, blob in sorted(found.items())
            if not start or name == start or name.startswith(f"{start}/")
        ]
        return Answer(200, {"paths": paths})

    def _blob(self, request: Request) -> Answer:
        if refused := self._refuses(request):
            return refused
        container, name = request.parts["container"], request.parts["blob"]
        if request.method == "PUT":
            with self._lock:
                return self._write(request, container, name)
        blob = self.containers.get(container, {}).get(name)
        if blob is None:
            return _error(404, "BlobNotFound", "the specified blob does not exist")
        if request.method == "DELETE":
            del self.containers[container][name]
            return Answer(202)
        if request.method == "HEAD":
            md5 = {"content-md5": base64.b64encode(blob.md5).decode()} if blob.md5 else {}
            return Answer(200, b"", {**blob.headers(), **md5, "content-length": str(len(blob.content))})
        return self._read(request, name, blob)

    def _read(self, request: Request, name: str, blob: Blob) -> Answer:
        if request.headers.get("if-match", blob.etag) not in {blob.etag, "*"}:
            return _error(412, "ConditionNotMet", "the blob was changed meanwhile")
        asked = request.headers.get("x-ms-range") or request.headers.get("range")
        size, headers = len(blob.content), blob.headers()
        md5 = base64.b64encode(blob.md5).decode() if blob.md5 else ""
        if asked is None:
            self.reads.append(Ranged(name, 0, size - 1))
            return Answer(200, blob.content, headers | ({"content-md5": md5} if md5 else {}))
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or size - 1), size - 1)
        if start >= size:
            return Answer(416, b"", {"content-range": f"bytes */{size}", "x-ms-error-code": "InvalidRange"})
        self.reads.append(Ranged(name, start, end))
        headers |= {"content-range": f"bytes {start}-{end}/{size}"} | (
            {"x-ms-blob-content-md5": md5} if md5 else {}
        )
        return Answer(206, blob.content[start : end + 1], headers)

    def _write(self, request: Request, container: str, name: str) -> Answer:
        metadata = {
            key.removeprefix("x-ms-meta-"): value
            for key, value in request.headers.items()
            if key.startswith("x-ms-meta-")
        }
        what, key = request.query.get("comp"), (container, name)
        if what == "block":
            self._blocks.setdefault(key, {})[request.query["blockid"]] = request.body
            return Answer(201)
        if what == "metadata":
            self.containers[container][name] = replace(self.containers[container][name], metadata=metadata)
            return Answer(200, b"", self.containers[container][name].headers())
        content, checked = request.body, True
        if what == "blocklist":
            blocks = self._blocks.pop(key, {})
            content = b"".join(blocks[block] for block in _block_ids(request.body))
            checked = False  # the service knows no MD5 of what it was given in blocks
        elif request.headers.get("if-none-match") == "*" and name in self.containers.get(container, {}):
            return _error(409, "BlobAlreadyExists", "the specified blob already exists")
        given = request.headers.get("x-ms-blob-content-md5")
        md5 = base64.b64decode(given) if given else None
        blob = self.put(container, name, content, metadata, md5=md5, checked=checked)
        return Answer(201, b"", {"etag": blob.etag, "last-modified": blob.headers()["last-modified"]})


def _block_ids(body: bytes) -> Iterator[str]:
    from xml.etree import ElementTree as ET

    for element in ET.fromstring(body):
        yield element.text or ""


def _entry(name: str, blob: Blob) -> str:
    """Return one blob of a listing."""
    md5 = f"<Content-MD5>{base64.b64encode(blob.md5).decode()}</Content-MD5>" if blob.md5 else ""
    metadata = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in blob.metadata.items())
    return (
        f"<Blob><Name>{escape(name)}</Name><Properties><Last-Modified>{blob.headers()['last-modified']}"
        f"</Last-Modified><Etag>{blob.etag.strip(chr(34))}</Etag><Content-Length>{len(blob.content)}"
        f"</Content-Length><Content-Type>application/octet-stream</Content-Type>{md5}"
        f"<BlobType>BlockBlob</BlobType></Properties><Metadata>{metadata}</Metadata></Blob>"
    )


def _error(status: int, code: str, message: str) -> Answer:
    text = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Answer(status, text.encode(), {"content-type": "application/xml", "x-ms-error-code": code})
