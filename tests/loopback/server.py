"""The HTTPS server: routes by name, faults first, and a record of every request."""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import trustme

from loopback.faults import Cut, Faults, Status

NAMES = (
    "localhost", "127.0.0.1", "*.blob.core.localhost", "*.dfs.core.localhost", "*.vault.localhost",
    "onelake.blob.fabric.localhost", "onelake.dfs.fabric.localhost",
)  # fmt: skip


class Recorded(NamedTuple):
    """A request as it is recorded: its ids taken out of the path."""

    method: str
    path: str
    api_version: str


@dataclass(frozen=True)
class Request:
    """What a handler is given."""

    method: str
    host: str
    path: str  # unquoted, without the query
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    parts: Mapping[str, str] = field(default_factory=dict)  # named groups of the route

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"null")

    def bearer(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


@dataclass(frozen=True)
class Answer:
    """What a handler gives back: JSON, or bytes as they are."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def refusal(status: int, code: str, message: str, **headers: str) -> Answer:
    """Return an error in the shape that ARM gives it."""
    return Answer(status, {"error": {"code": code, "message": message}}, headers)


Handler = Callable[[Request], Answer]


class _Route(NamedTuple):
    name: str
    methods: frozenset[str]
    host: re.Pattern[str]
    path: re.Pattern[str]
    handler: Handler


class Server:
    """One port of this machine, with TLS."""

    def __init__(self) -> None:
        self.authority = trustme.CA()
        self.faults = Faults()
        self.requests: list[Recorded] = []
        self.errors: list[str] = []  # of handlers: a test that looks odd should look here
        self._routes: list[_Route] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler_class())
        self._http.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*NAMES).configure_cert(context)
        # The handshake belongs to the connection's own thread, or one slow client would stop all others.
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def route(self, name: str, methods: str, path: str, handler: Handler, *, host: str = "localhost") -> None:
        """Send requests to ``handler``: the first route that fits wins; host and path are whole-match patterns."""
        flags = re.IGNORECASE  # ARM's paths are case-insensitive
        self._routes.append(
            _Route(name, frozenset(methods.split()), re.compile(host, flags), re.compile(path, flags), handler)
        )

    def answer(self, request: Request) -> tuple[Answer, int | None]:
        """Return the answer, and after how many bytes of its body the connection is cut."""
        for route in self._routes:
            match = route.path.fullmatch(request.path)
            if match is None or request.method not in route.methods or not route.host.fullmatch(request.host):
                continue
            fault = self.faults.take(request.method, route.name, request.path)
            if isinstance(fault, Status):
                return Answer(fault.code, fault.body, fault.headers), None
            parts = {name: value or "" for name, value in match.groupdict().items()}
            given = Request(**{**vars(request), "parts": parts})
            return route.handler(given), fault.after if isinstance(fault, Cut) else None
        self.errors.append(f"no route: {request.method} https://{request.host}{request.path}")
        return refusal(404, "NoRoute", f"the loopback has no route for {request.method} {request.path}"), None

    def _handler_class(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Connection(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def serve(self) -> None:
                server._serve(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = serve  # noqa: N815  # the base's names

            def log_message(self, format: str, *args: object) -> None:
                pass

            def handle(self) -> None:
                # A client that goes away in the middle is not a fault of ours.
                with contextlib.suppress(ssl.SSLError, ConnectionError, TimeoutError, ValueError):
                    super().handle()

        return Connection

    def _serve(self, connection: BaseHTTPRequestHandler) -> None:
        request = _read(connection)
        self.requests.append(_recorded(request))
        try:
            answer, cut = self.answer(request)
        except Exception as error:  # noqa: BLE001  # whatever a handler does, the client gets an answer
            self.errors.append(f"{request.method} {request.path}: {type(error).__name__}: {error}")
            answer, cut = refusal(500, "LoopbackError", f"{type(error).__name__}: {error}"), None
        _write(connection, answer, cut, head=request.method == "HEAD")


def _read(connection: BaseHTTPRequestHandler) -> Request:
    split = urllib.parse.urlsplit(connection.path)
    headers = {name.lower(): value for name, value in connection.headers.items()}
    return Request(
        method=connection.command,
        host=headers.get("host", "").partition(":")[0],
        path=urllib.parse.unquote(split.path),
        query=dict(urllib.parse.parse_qsl(split.query, keep_blank_values=True)),
        headers=headers,
        body=_body(connection, headers),
    )


def _body(connection: BaseHTTPRequestHandler, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return connection.rfile.read(int(headers.get("content-length") or 0))
    pieces = []
    while size := int(connection.rfile.readline().split(b";")[0], 16):
        pieces.append(connection.rfile.read(size))
        connection.rfile.readline()
    connection.rfile.readline()
    return b"".join(pieces)


def _write(connection: BaseHTTPRequestHandler, answer: Answer, cut: int | None, *, head: bool) -> None:
    body = answer.encoded()
    headers = {"content-type": "application/json", **answer.headers}
    headers.setdefault("content-length", str(len(body)))
    connection.send_response(answer.status)
    for name, value in headers.items():
        connection.send_header(name, value)
    connection.end_headers()
    if not head:  # an answer to HEAD has an empty body, even where it is an error
        connection.wfile.write(body if cut is None else body[:cut])
    if cut is not None:
        connection.wfile.flush()
        connection.close_connection = True


_IDS = (
    (re.compile(r"(?i)/subscriptions/[^/]+"), "/subscriptions/S"),
    (re.compile(r"(?i)/resourcegroups/[^/]+"), "/resourceGroups/G"),
    (re.compile(r"(?i)/workspaces/[^/]+"), "/workspaces/W"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32,64}"), "ID"),
)


def _recorded(request: Request) -> Recorded:
    path = request.path
    for pattern, name in _IDS:
        path = pattern.sub(name, path)
    return Recorded(request.method, path, request.query.get("api-version", ""))
