from __future__ import annotations

from loopback.fixture import azure, azure_cloud, workspace  # noqa: F401  # fixtures
