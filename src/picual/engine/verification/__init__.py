"""The gate: a check for every promise a pass makes, read off the final files.

It imports no pass's writer and trusts no journal: what it finds in the files is all it knows.
"""

from __future__ import annotations

GATE_VERSION = 7  # part of every verification's key: raise it when a check or a bound changes
