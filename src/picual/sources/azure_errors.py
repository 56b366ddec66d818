"""What azure's clients raise, as errors that say what to do and hold no token and no signature."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from picual.errors import EnvironmentFault, PicualError, UnknownName
from picual.sources.azure_address import shown
from picual.sources.azure_client import quiet
from picual.sources.azure_retries import Patience, may_pass

_SECRET = re.compile(r"(?i)(sig|sv|se|sp|skoid|token|key|secret)=[^&\s'\"]+|bearer\s+\S+|eyJ[\w.-]{20,}")
_NOT_FOUND = {
    "SubscriptionNotFound": ("subscription", "az account list --output table"),
    "InvalidSubscriptionId": ("subscription", "az account list --output table"),
    "ResourceGroupNotFound": ("resource group", "az group list --output table"),
    "ResourceNotFound": ("workspace", "az ml workspace list --output table"),
    "RegistryNotFound": ("registry", "az ml registry list --output table"),
    "ContainerNotFound": ("container", "az storage container list --account-name ACCOUNT"),
}


@contextlib.contextmanager
def explained(uri: str, patience: Patience, *, writes: bool = False) -> Iterator[None]:
    """Turn what azure's clients raise while something at ``uri`` is asked for into errors of ours.

    Args:
        uri: For the message.
        patience: That the calls are made with.
        writes: Whether something is written there, which takes another role than to read.

    Raises:
        UnknownName: There is no such subscription, workspace, registry or path.
        EnvironmentFault: No credential, no access, no network, or a server that stays busy.
    """
    try:
        with quiet():
            yield
    except PicualError as error:
        raise error.located(shown(uri)) from error
    except Exception as error:
        told = _told(error, patience, writes=writes)
        if told is None:
            raise
        raise told.located(shown(uri)) from error


def _told(error: Exception, patience: Patience, *, writes: bool) -> PicualError | None:
    from azure.core import exceptions

    status, code = getattr(error, "status_code", None), code_of(error)
    if status == 403:
        return _no_access(code, writes=writes)
    if status in _REFUSED:
        return _REFUSED[status](code)
    if isinstance(error, exceptions.ClientAuthenticationError):  # no service was asked
        return _no_credential()
    if may_pass(error):
        return _busy(error, status, patience)
    if isinstance(error, exceptions.AzureError):
        told = first_line(error)
        quota = "quota" in told.lower()
        hint = (
            "ask for more, or name another `compute`: `az ml compute list-usage`" if quota else "check the address"
        )
        return EnvironmentFault(f"Azure refuses the request ({told})", hint=hint)
    return None


def _not_accepted(code: str) -> EnvironmentFault:
    return EnvironmentFault(f"Azure does not accept the credential ({code or 401})", hint="az login")


def _missing(code: str) -> UnknownName:
    what, hint = _NOT_FOUND.get(code, ("file", "check the address"))
    return UnknownName(f"Azure has no such {what} ({code or 404})", hint=hint)


def _no_credential() -> EnvironmentFault:
    return EnvironmentFault(
        "there is no Azure credential on this machine",
        hint="az login, or `export AZURE_CLIENT_ID=... AZURE_TENANT_ID=... AZURE_CLIENT_SECRET=...`",
    )


def _no_access(code: str, *, writes: bool) -> EnvironmentFault:
    role = "Storage Blob Data Contributor" if writes else "Storage Blob Data Reader"
    return EnvironmentFault(
        f"this Azure login may not {'write' if writes else 'read'} it ({code or 403})",
        hint=f"ask for the role `AzureML Data Scientist` on the workspace and `{role}` on its "
        "storage account, or log in as another user: `az login`",
    )


_REFUSED: dict[Any, Callable[[str], PicualError]] = {401: _not_accepted, 404: _missing}


def _busy(error: Exception, status: Any, patience: Patience) -> EnvironmentFault:
    from azure.core.exceptions import IncompleteReadError

    cut = isinstance(error, IncompleteReadError) or isinstance(error.__cause__, IncompleteReadError)
    how = {429: "asks for fewer requests", None: "does not answer"}
    what = "cuts the connection" if cut else how.get(status, f"answers {status}")
    return EnvironmentFault(
        f"Azure {what}, {patience.retries + 1} times in a row ({first_line(error)})",
        hint="check the network and run the same command again; `max_operation_retries` and "
        "`operation_retry_interval` set how long to wait",
    )


def code_of(error: BaseException) -> str:
    """Return Azure's own code for what went wrong, or ``""``."""
    inner = getattr(error, "error", None)
    code = getattr(error, "error_code", None) or getattr(inner, "code", None) or ""
    return str(getattr(code, "value", code))


def first_line(error: Exception) -> str:
    """Return what an error says, in one line and without secrets."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return _SECRET.sub("***", shown(lines[0]))[:200]
