"""What looks like a secret: tokens, keys, signed addresses. No message, note or file may repeat one."""

from __future__ import annotations

import re

_HUB = "log in (`hf auth login`) or set `HF_TOKEN`; on Azure: `keyvault_name` and `hf_token: true` under the host"
_AZURE = "log in (`az login`); datastores and identities give access without it"
_PATTERNS = (
    (re.compile(r"\bhf_[A-Za-z0-9]{20,}"), "a token of the Hugging Face hub", _HUB),
    (re.compile(r"[?&]sig=[A-Za-z0-9%+/=]{16,}"), "a signed address", _AZURE),
    (re.compile(r"(?i)accountkey=[A-Za-z0-9+/=]{20,}"), "the key of a storage account", _AZURE),
    (re.compile(r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+"), "an access token", _AZURE),
    (
        re.compile(r"://[^/\s:@]+:[^/\s:@]+@"),
        "a password in an address",
        "give it by the service's own environment",
    ),
)
_NAMES = re.compile(r"(?i)token$|secret|password|passwd|api_?key|account_?key")


def secrets_in(text: str) -> list[tuple[str, str]]:
    """Return, for each kind of secret that a text holds, what it is and what to do instead."""
    return [(what, hint) for pattern, what, hint in _PATTERNS if pattern.search(text)]


def without_secrets(text: str) -> str:
    """Return a text with what looks like a secret left out."""
    for pattern, what, _ in _PATTERNS:
        text = pattern.sub(f"<{what}>", text)
    return text


def is_kept_quiet(name: str, value: object) -> bool:
    """Say whether a text is a secret by what it is called, whatever it looks like."""
    return isinstance(value, str) and bool(_NAMES.search(name))
