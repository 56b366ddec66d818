"""`ExtractAdapters`: Olive takes adapters out of an exported graph; here they never went in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from picual.recipe.olive.chains import Link
from picual.recipe.olive.notes import Ledger, Reason
from picual.recipe.olive.reader import Found, object_reader, word
from picual.recipe.schema import StepSpec

EXTRACTING = "extractadapters"
WHY_NOT = (
    "takes adapters out of an exported graph; here `build-genai` right after `lora`, without `merge-adapter`"
    " between, leaves them beside it"
)
_TOLD = "the adapters are files of their own already: `build-genai` writes `adapters/NAME.onnx_adapter`"
_PARAMETERS: dict[str, Reason] = {
    "make_inputs": ("mapped", "the graph takes the adapters as inputs"),
    "dynamic_lora_r": ("mapped", "ranks are free: adapters of any rank go through one graph"),
    "optional_inputs": ("mapped", "without an adapter the base answers"),
    "adapter_type": ("mapped", "a LoRA adapter"),
    "save_format": ("ignored", "files are in ONNX Runtime's own format; `picual extract-adapters` writes others"),
}


def is_done_already(
    ledger: Ledger, link: Link, passes: Mapping[str, list[Found]], steps: Sequence[StepSpec]
) -> bool:
    """Say whether a place in the order is an extraction that the step before it makes needless, and note so."""
    entries = [entry for name in link.slot if name is not None for entry in passes[name]]
    readers = [object_reader(ledger, entry) for entry in entries]
    given = [reader.find_type() for reader in readers]
    if None in link.slot or not given or any(one is None or word(one.value) != EXTRACTING for one in given):
        return False
    types = [step.type for step in steps]
    if types[-1:] != ["build-genai"] or types[-2:-1] != ["lora"]:
        return False
    for reader, one in zip(readers, given, strict=True):
        assert one is not None
        ledger.note(one.path, "mapped", _TOLD)
        reader.drop_all(_PARAMETERS)
        reader.unknown(_PARAMETERS, "ExtractAdapters", ("type", "config"))
    return True
