"""Versioned assets (models, data, environments, codes) of a workspace or a registry, in the shapes of ARM."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from loopback.server import Answer, Request, refusal

KINDS = ("models", "data", "environments", "codes", "components")
# What the SDK's readers take for granted in an answer.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "models": {"flavors": {}, "modelType": "custom_model"},
    "data": {"dataType": "uri_folder"},
}
_TIME = "2026-01-01T00:00:{:02d}+00:00"


class Assets:
    """``versions["models"]["name"]["version"]`` are the properties; the version made last is the latest."""

    def __init__(self, arm_id: str) -> None:
        self.arm_id = arm_id
        self.versions: dict[str, dict[str, dict[str, dict[str, Any]]]] = {kind: {} for kind in KINDS}
        self._made = itertools.count(1)

    def put(self, kind: str, name: str, version: str, properties: Mapping[str, Any]) -> dict[str, Any]:
        kept = {**_DEFAULTS.get(kind, {}), "tags": {}, "properties": {}, **properties}
        kept["provisioningState"] = "Succeeded"
        self.versions[kind].setdefault(name, {})[version] = {**kept, "_made": next(self._made)}
        return self.resource(kind, name, version)

    def properties(self, kind: str, name: str, version: str) -> dict[str, Any] | None:
        return self.versions[kind].get(name, {}).get(version)

    def latest(self, kind: str, name: str) -> str | None:
        found = self.versions[kind].get(name)
        return max(found, key=lambda version: found[version]["_made"]) if found else None

    def resource(self, kind: str, name: str, version: str) -> dict[str, Any]:
        stored = self.versions[kind][name][version]
        system = {"createdAt": _TIME.format(stored["_made"] % 60), "createdBy": "loopback"}
        return {
            "id": f"{self.arm_id}/{kind}/{name}/versions/{version}",
            "name": version,
            "type": f"Microsoft.MachineLearningServices/workspaces/{kind}/versions",
            "properties": {key: value for key, value in stored.items() if key != "_made"},
            "systemData": system,
        }

    def answer(self, request: Request) -> Answer:  # one return a form of the address
        """Answer ``KIND[/NAME[/versions[/VERSION]]]`` for reading and writing."""
        kind, name = request.parts["kind"].lower(), request.parts["name"]
        version = request.parts["version"]
        if request.method == "PUT":
            return self._written(kind, name, version, request)
        if not name:
            return Answer(200, {"value": [self._container(kind, each) for each in self.versions[kind]]})
        known = self.versions[kind].get(name, {})
        if kind == "codes" and not known and not version:
            return Answer(200, {"value": []})  # nothing with this hash was uploaded before
        if not known or (version and version not in known):
            what = f"{kind} {name}{f' version {version}' if version else ''} not found"
            return refusal(404, "UserError", what)
        if not version and request.path.rstrip("/").lower().endswith("/versions"):
            return Answer(200, {"value": self._listed(kind, name, request)})
        return Answer(200, self.resource(kind, name, version) if version else self._container(kind, name))

    def _written(self, kind: str, name: str, version: str, request: Request) -> Answer:
        """Make or change a version; the service lets no version of a model point elsewhere than it does."""
        if not version:
            return Answer(201, self._container(kind, name))
        known, given = self.properties(kind, name, version), request.json["properties"]
        if kind == "models" and known is not None and known["modelUri"] != given["modelUri"]:
            return refusal(400, "UserError", "Asset paths cannot be updated.")
        return Answer(201, self.put(kind, name, version, given))

    def _listed(self, kind: str, name: str, request: Request) -> list[dict[str, Any]]:
        versions = self.versions[kind][name]
        wanted = request.query.get("hash")
        newest_first = sorted(versions, key=lambda version: -versions[version]["_made"])
        if wanted is not None:
            newest_first = [
                version for version in newest_first if versions[version]["properties"].get("hash_sha256") == wanted
            ]
        top = int(request.query.get("$top") or len(newest_first) or 1)
        return [self.resource(kind, name, version) for version in newest_first[:top]]

    def _container(self, kind: str, name: str) -> dict[str, Any]:
        latest = self.latest(kind, name)
        numbers = [int(version) for version in self.versions[kind].get(name, {}) if version.isdecimal()]
        properties = {
            "latestVersion": latest,
            "nextVersion": str(1 + max(numbers, default=0)),
            "isArchived": False,
            "tags": {},
            "properties": {},
        }
        if kind == "data":
            properties["dataType"] = "uri_folder"
        return {"id": f"{self.arm_id}/{kind}/{name}", "name": name, "properties": properties}
