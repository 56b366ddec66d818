"""Words that a template left in a recipe for its reader to replace: `<model>`, `{{name}}`, `MODEL_TASK`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PLACEHOLDERS = (
    re.compile(r"<{1,2}[A-Za-z][\w .:/-]*>{1,2}"),
    re.compile(r"\{\{[^{}]*\}\}"),
    re.compile(r"\$\{[^{}]*\}"),
    re.compile(r"^[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+$"),
    re.compile(r"^[Yy]our [A-Za-z].*"),
)


def placeholder_in(value: Any) -> str | None:
    """Return the first placeholder in a value, looking inside lists and mappings; None when there is none."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return next((found for item in value if (found := placeholder_in(item))), None)
    if not isinstance(value, str):
        return None
    for pattern in _PLACEHOLDERS:
        if match := pattern.search(value):
            return match.group()
    return None
