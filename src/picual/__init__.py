"""Picual: from a language model checkpoint to the best deployable model for your hardware."""

from __future__ import annotations

__version__ = "0.1.0"
