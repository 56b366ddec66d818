"""Key Vault: secrets by name, behind the challenge that the real one makes."""

from __future__ import annotations

from loopback.identity import Identity
from loopback.server import Answer, Request, Server, refusal


class Vaults:
    """All vaults of the cloud: ``secrets["vault name"]["secret name"]``."""

    def __init__(self, server: Server, identity: Identity) -> None:
        self.secrets: dict[str, dict[str, str]] = {}
        self._server = server
        self._identity = identity
        host = r"[\w-]+\.vault\.localhost"
        server.route("secrets", "GET", r"/secrets/(?P<name>[^/]+)/?(?P<version>[^/]*)", self._get, host=host)

    def url(self, vault: str) -> str:
        return f"https://{vault}.vault.localhost:{self._server.port}"

    def _get(self, request: Request) -> Answer:
        if refused := self._identity.refuses(request):
            resource = f"https://vault.localhost:{self._server.port}"
            challenge = f'Bearer authorization="{self._server.url}/tenant", resource="{resource}"'
            return Answer(401, refused.body, {"www-authenticate": challenge})
        vault, name = request.host.partition(".")[0], request.parts["name"]
        value = self.secrets.get(vault, {}).get(name)
        if value is None:
            return refusal(
                404, "SecretNotFound", f"a secret with (name/id) {name} was not found in this key vault"
            )
        return Answer(body={"value": value, "id": f"{self.url(vault)}/secrets/{name}/1", "attributes": {}})
