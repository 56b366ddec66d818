"""On the path of every Python that a test starts: names under localhost are here, others refused."""

import socket

_real = socket.getaddrinfo


def _guarded(host, *args, **kwargs):  # type: ignore[no-untyped-def]
    name = host.decode() if isinstance(host, bytes) else host
    if name is None or name in {"localhost", "127.0.0.1", "::1", ""}:
        return _real(host, *args, **kwargs)
    if name.endswith(".localhost"):
        return _real("127.0.0.1", *args, **kwargs)
    raise socket.gaierror(socket.EAI_NONAME, f"the loopback refuses to look up {name}")


if not getattr(socket.getaddrinfo, "guarded", False):
    _guarded.guarded = True
    socket.getaddrinfo = _guarded
