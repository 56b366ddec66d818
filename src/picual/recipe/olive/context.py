"""What the readers of the parts of one config share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from picual.recipe.olive.notes import Ledger, Path_
from picual.recipe.olive.reader import Reader

WORKSPACE = ("subscription_id", "resource_group", "workspace_name")


@dataclass
class Context:
    """The state of one import.

    Attributes:
        ledger: Where everybody records what became of a value.
        folder: Folder of the config, absolute.
        client: The config's Azure workspace: `subscription_id`, `resource_group`, `workspace_name` and the like.
        azure: What goes with an address in Azure: `max_operation_retries`, `operation_retry_interval`, and
            `aml_config_path` where nothing else names the workspace.
        trust: Whether some part of the config asks for remote model code.
        addressed: Whether an address was made with the workspace of the config.
        searched: Names of steps that Picual does not have and whose parameters Olive would search.
        holdouts: Share of a data set to keep from training, by the name of the data set, and where it stands.
    """

    ledger: Ledger
    folder: Path
    client: dict[str, Any] = field(default_factory=dict)
    azure: dict[str, Any] = field(default_factory=dict)
    trust: bool = False
    addressed: bool = False
    searched: set[str] = field(default_factory=set)
    holdouts: dict[str, tuple[float, Path_]] = field(default_factory=dict)

    def trusts(self, reader: Reader) -> None:
        """Take `trust_remote_code` of an object, if it has one, for the model."""
        if reader.flag("trust_remote_code", to="model.trust_remote_code"):
            self.trust = True
