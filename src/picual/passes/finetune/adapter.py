"""A LoRA adapter as ``peft`` makes it, and as it is stored: without a trace of where and when it was trained."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picual import _atomic
from picual.models import HfCheckpoint

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@dataclass(frozen=True, kw_only=True)
class AdapterForm:
    """Shape and strength of an adapter; no ``modules`` stands for every linear layer but the head."""

    rank: int
    alpha: float
    dropout: float
    modules: tuple[str, ...]
    modules_to_save: tuple[str, ...]
    rank_stabilized: bool


def add_adapter(network: Any, form: AdapterForm) -> Any:
    """Return the network with a fresh adapter on it, its weights frozen.

    A is random, by the current seed of torch; B is zero, so that nothing has changed yet.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=form.rank,
        lora_alpha=form.alpha,  # peft says int, and computes with floats
        lora_dropout=form.dropout,
        target_modules=sorted(form.modules),
        modules_to_save=sorted(form.modules_to_save) or None,
        use_rslora=form.rank_stabilized,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft asks the network by a name that transformers is about to drop; nothing for the user to do.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        return get_peft_model(network, config)


def load_weights(adapted: Any, folder: Path) -> None:
    """Put the adapter weights of a checkpoint into the network."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(adapted, load_file(folder / WEIGHTS))


def save_adapter(adapted: Any, model: HfCheckpoint, folder: Path) -> None:
    """Write the adapter, its config and the model's tokenizer files into ``folder``."""
    adapted.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # a model card with the base's path
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    # Sets have another order in every process; the base is known by its digest, not by a path of this machine.
    for key in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    config["base_model_name_or_path"] = ""
    _atomic.write_json(folder / CONFIG, dict(sorted(config.items())))
    for companion in model.companions():
        shutil.copyfile(companion, folder / companion.name)
