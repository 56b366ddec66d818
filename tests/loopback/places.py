"""Where the files of an address lie: datastores, models, job outputs and plain blob addresses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from loopback.control import Workspace
    from loopback.registry import Registries


class Place(NamedTuple):
    """A container and a path in it."""

    container: str
    path: str


_DATASTORE = re.compile(r"azureml://(?:.*/)?datastores/(?P<store>[^/]+)/(?:paths/)?(?P<path>.*)", re.IGNORECASE)
_OUTPUT = re.compile(r"azureml://(?:.*/)?jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)/paths/?(?P<path>.*)")
_REGISTRY = re.compile(r"azureml://registries/(?P<registry>[^/]+)/models/(?P<name>[^/]+)/versions/(?P<version>.+)")
_ASSET = re.compile(r"(?:azureml:)?.*?/?(?P<kind>models|data)/(?P<name>[^/]+)/versions/(?P<version>[^/]+)")
_URI = {"models": "modelUri", "data": "dataUri"}


def place_of(uri: str, workspace: Workspace, registries: Registries | None = None) -> Place:
    """Return where ``uri`` points to.

    Raises:
        LookupError: It points to nothing.
    """
    if uri.startswith("https://"):
        _, _, _, container, path = uri.split("?", maxsplit=1)[0].split("/", 4)
        return Place(container, path)
    if match := _OUTPUT.fullmatch(uri):
        inner = place_of(workspace.jobs.output_uri(match["job"], match["output"]), workspace)
        return Place(inner.container, f"{inner.path.rstrip('/')}/{match['path']}".rstrip("/"))
    if match := _REGISTRY.fullmatch(uri):
        assert registries is not None
        found = registries.assets[match["registry"]].properties("models", match["name"], match["version"])
        if found is None:
            raise LookupError(uri)
        return place_of(found["modelUri"], workspace)
    if match := _DATASTORE.fullmatch(uri):
        return Place(workspace.container(match["store"]), match["path"].strip("/"))
    if match := _ASSET.fullmatch(uri):
        properties = workspace.assets.properties(match["kind"], match["name"], match["version"])
        if properties is None:
            raise LookupError(uri)
        return place_of(properties[_URI[match["kind"]]], workspace)
    raise LookupError(uri)
