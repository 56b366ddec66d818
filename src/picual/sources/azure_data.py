"""Data files that a recipe keeps in Azure: brought into the store once, and again only when they changed there.

They lie in ``STORE/remote/ADDRESS/LISTING/``, both digests: of the address, and of its files' names, sizes, ETags.
What reads rows gets plain paths, and a step's key holds the files' content: where they came from does not matter.
"""

from __future__ import annotations

from pathlib import Path

from picual import _atomic, fingerprint
from picual.errors import BadValue, EnvironmentFault
from picual.sources import azure_download, azure_lookup
from picual.sources.azure_address import is_address, shown
from picual.sources.azure_client import Access

FOLDER = "remote"


def bring(uri: str, root: Path, access: Access, *, offline: bool = False) -> list[Path]:
    """Return the files at an address, on this machine.

    Args:
        uri: Of one file, or of a folder: then every file in it, by name.
        root: The store's.
        access: Who asks, and how patiently.
        offline: Take what was brought last, and ask nobody.

    Raises:
        BadValue, UnknownName: The address means nothing, or there is nothing at it.
        EnvironmentFault: It cannot be fetched.
        MissingDependency: The extra is not installed.
    """
    if not is_address(uri):
        raise BadValue(f"`{shown(uri)}` cannot be fetched", hint="fetch it and give its path under `files:`")
    home = root / FOLDER / fingerprint.digest(["address", shown(uri)])[:32]
    if offline:
        return _last(uri, home)
    place = azure_lookup.locate(uri, access)
    found = azure_lookup.entries(place, access)
    folder = home / fingerprint.digest([[entry.name, entry.size, entry.etag] for entry in found])[:32]
    if not folder.is_dir():
        with _atomic.new_folder(folder) as half:
            azure_download.download(place, found, half, access)
    _atomic.write_text(home / "last", folder.name)
    return [folder / entry.name for entry in found]


def _last(uri: str, home: Path) -> list[Path]:
    if not (home / "last").is_file():
        raise EnvironmentFault(
            "the data is kept in Azure, was never fetched, and `--offline` forbids to",
            where=shown(uri),
            hint="drop `--offline`, or give `files:` of your own",
        )
    folder = home / (home / "last").read_text(encoding="utf-8")
    return sorted(file for file in folder.rglob("*") if file.is_file())
