"""Faults that a test plants: each is the answer to one request, in the order they were planted."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Status:
    """Answer with a status and an Azure error body."""

    code: int
    error: str = "Injected"
    message: str = "a planted fault"
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> Mapping[str, Any]:
        return {"error": {"code": self.error, "message": self.message}}


@dataclass(frozen=True)
class Cut:
    """Send the true answer, and close the connection after so many bytes of its body."""

    after: int


Fault = Status | Cut


def busy(seconds: float = 0) -> Status:
    """429: too many requests, with the time to wait."""
    return Status(429, "TooManyRequests", "slow down", {"retry-after": str(seconds)})


UNAVAILABLE = Status(503, "ServerBusy", "the server is busy")
FORBIDDEN = Status(403, "AuthorizationFailed", "the client does not have authorization to perform the action")
EXPIRED = Status(
    401, "ExpiredAuthenticationToken", "the access token expiry is in the past",
    {"www-authenticate": 'Bearer error="invalid_token", error_description="The access token expired"'},
)  # fmt: skip
QUOTA = Status(400, "UserError", "the specified subscription has a total vCPU quota of 0 and is not sufficient")
NO_SUBSCRIPTION = Status(404, "SubscriptionNotFound", "the subscription could not be found")


@dataclass
class _Planted:
    method: str
    route: str
    containing: str
    faults: list[Fault]


class Faults:
    """The planted faults of one server."""

    def __init__(self) -> None:
        self._planted: list[_Planted] = []
        self._lock = threading.Lock()

    def plant(self, method: str, route: str, *faults: Fault, containing: str = "") -> None:
        """Answer the next requests of a route with ``faults``.

        Args:
            method: ``GET``, ``PUT``, ... or ``*``.
            route: Name of the route, as in ``Server.route``: ``jobs``, ``blobs``, ``datastores``, ``models``, ...
            *faults: One for each of the next requests.
            containing: Only requests whose path contains this.
        """
        with self._lock:
            self._planted.append(_Planted(method, route, containing, list(faults)))

    def take(self, method: str, route: str, path: str) -> Fault | None:
        with self._lock:
            for planted in self._planted:
                fits = planted.method in {"*", method} and planted.route == route and planted.containing in path
                if fits and planted.faults:
                    return planted.faults.pop(0)
        return None

    def clear(self) -> None:
        with self._lock:
            self._planted.clear()
