"""Tokens: a managed identity's endpoint, as an Azure ML compute has it, and the check that every plane makes."""

from __future__ import annotations

import secrets
import time
from typing import Any, NamedTuple

from loopback.server import Answer, Request, Server, refusal

SECRET = "loopback-msi-secret"
LIFETIME = 24 * 3600


class Token(NamedTuple):
    """In the form of azure-core's ``AccessToken``."""

    token: str
    expires_on: int


class Identity:
    """Issues tokens and knows its own."""

    def __init__(self, server: Server) -> None:
        self._issued: dict[str, str] = {}
        self.asked: list[str] = []  # the resources that tokens were asked for, by managed identity
        self.available = True
        server.route("msi", "GET", "/msi", self._msi)

    def issue(self, resource: str) -> str:
        token = f"loopback-{secrets.token_hex(16)}"
        self._issued[token] = resource
        return token

    def refuses(self, request: Request) -> Answer | None:
        """Return 401 unless the request carries a token that was issued here."""
        if request.bearer() in self._issued:
            return None
        return refusal(401, "AuthenticationFailed", "the request carries no valid token")

    def credential(self) -> StaticCredential:
        """Return a credential that needs no endpoint."""
        return StaticCredential(self)

    def _msi(self, request: Request) -> Answer:
        if not self.available or request.headers.get("secret") != SECRET:
            return refusal(400, "invalid_request", "identity not found")
        resource = request.query["resource"]
        self.asked.append(resource)
        expires = str(int(time.time()) + LIFETIME)
        body = {"access_token": self.issue(resource), "expires_on": expires, "resource": resource}
        return Answer(body={**body, "token_type": "Bearer"})


class StaticCredential:
    """What azure-core calls a token credential."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def get_token(self, *scopes: str, **_: Any) -> Token:
        return Token(self._identity.issue(scopes[0]), int(time.time()) + LIFETIME)
