"""The keys that a config has at its top and under `engine`, and those that are like one of them."""

from __future__ import annotations

from picual.errors import did_you_mean
from picual.recipe.olive.engine import UNUSED
from picual.recipe.olive.packaging import KEY as PACKAGING
from picual.recipe.olive.reader import Reader, word

_SECTIONS = (
    "input_model", "systems", "data_configs", "data_root", "evaluators", "passes", "engine", "azureml_client",
)  # fmt: skip
_OF_ENGINE = (
    "output_dir", "cache_dir", "log_severity_level", "search_strategy", "host", "target", "workflow_host",
    "evaluator", "evaluate_input_model", "execution_providers", "pass_flows", PACKAGING,
)  # fmt: skip
_KNOWN = (*_SECTIONS, *_OF_ENGINE, *UNUSED)


def note_unknown(reader: Reader) -> None:
    """Note of keys at the top and of the engine that are not known what may have been meant."""
    for layer in reader.layers:
        for key in layer.value:
            path = (*layer.path, key)
            if word(key) in _KNOWN or reader.ledger.is_told(path):
                continue
            if hint := did_you_mean(str(key), _KNOWN):
                reader.ledger.note(path, "ignored", f"a config has no `{key}`; {hint}")
