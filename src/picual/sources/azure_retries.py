"""How often and how patiently a call to Azure is repeated, whatever the client's own rules are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

PASSING = frozenset({408, 429, 500, 502, 503, 504})
LONGEST_WAIT = 300.0  # seconds: of what a server asks for


@dataclass(frozen=True)
class Patience:
    """Repeats of one call: how many, and the seconds between them."""

    retries: int = 5
    interval: float = 5.0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Patience:
        """Return what ``max_operation_retries`` and ``operation_retry_interval`` say."""
        retries, interval = options.get("max_operation_retries"), options.get("operation_retry_interval")
        return cls(
            retries=cls.retries if retries is None else int(retries),
            interval=cls.interval if interval is None else float(interval),
        )

    def ask(self, call: Callable[[], T]) -> T:
        """Return what ``call`` gives; what may pass is asked again, after as long as the server asks for."""
        for attempt in range(self.retries + 1):
            try:
                return call()
            except Exception as error:
                if attempt == self.retries or not may_pass(error):
                    raise
                time.sleep(wait_of(error, self.interval))
        raise AssertionError  # the last attempt returns or raises


def may_pass(error: Exception) -> bool:
    """Say whether the same call may succeed later: the server is busy, or the connection broke."""
    from azure.core import exceptions

    broken = (exceptions.ServiceRequestError, exceptions.ServiceResponseError, exceptions.IncompleteReadError)
    if isinstance(error, broken) or isinstance(error.__cause__, broken):
        return True
    return isinstance(error, exceptions.HttpResponseError) and error.status_code in PASSING


def wait_of(error: Exception, interval: float) -> float:
    """Return the seconds that a server asks for, else ``interval``."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        return min(float(headers.get("retry-after") or interval), LONGEST_WAIT)
    except ValueError:  # a date: rare enough to be no number
        return interval
