"""A container of blobs that stays open: what may pass is asked again, and a signature that ran out is renewed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from picual.sources.azure_client import Access
from picual.sources.azure_errors import explained

PARTS = 4  # blocks of a file under way at a time
T = TypeVar("T")


class OpenContainer:
    """A container, and how patiently it is asked.

    Args:
        opened: Makes a client of the container; again, when its signature has run out.
        access: With the patience for each call.
        uri: For messages.
    """

    def __init__(self, opened: Callable[[], Any], access: Access, uri: str) -> None:
        self._opened, self._access, self._uri = opened, access, uri
        self._client = self.ask(opened)

    def blob(self, name: str) -> Any:
        """Return the client of a blob."""
        return self._client.get_blob_client(name)

    def sizes(self, start: str) -> dict[str, int]:
        """Return the bytes of every blob whose name begins with ``start``, by name."""
        return self.ask(lambda: {
            str(one.name): int(one.size) for one in self._client.list_blobs(name_starts_with=start)
        })  # fmt: skip

    def send(self, file: Path, name: str, told: Callable[[int], None] | None = None) -> None:
        """Write a file's content to a blob, in blocks; the blob is there whole, or not at all.

        Args:
            file: On this machine.
            name: Of the blob.
            told: Called with the bytes that are there, as they get there.
        """

        def hook(done: int, _: int | None) -> None:
            if told is not None:
                told(done)

        def send() -> None:
            with file.open("rb") as content:
                self.blob(name).upload_blob(
                    content, length=file.stat().st_size, overwrite=True, max_concurrency=PARTS, progress_hook=hook
                )

        self.ask(send, writes=True)

    def ask(self, call: Callable[[], T], *, writes: bool = False) -> T:
        """Do a call, again if it may pass, and once more with a fresh signature if this one is refused.

        Raises:
            UnknownName: There is no such container or blob.
            EnvironmentFault: No credential, no access, no network, or a server that stays busy.
        """
        from azure.core.exceptions import HttpResponseError

        with explained(self._uri, self._access.patience, writes=writes):
            try:
                return self._access.patience.ask(call)
            except HttpResponseError as error:
                if error.status_code not in {401, 403}:
                    raise
                self._client = self._opened()
                return self._access.patience.ask(call)
