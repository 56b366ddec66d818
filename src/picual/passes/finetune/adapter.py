"""An adapter as ``peft`` makes it, and as it is stored: without a trace of where and when it was trained."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from picual import _atomic
from picual.models import HfCheckpoint
from picual.models.hf import weight_files
from picual.passes.finetune.disk import disk_errors

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
Method = Literal["lora", "rslora", "dora", "loha", "lokr"]
OUTPUTS_DROPPED = ("loha", "lokr")  # their dropout is of the update's outputs, not of its inputs


@dataclass(frozen=True, kw_only=True)
class AdapterForm:
    """Shape and strength of an adapter; no ``modules`` stands for every linear layer but the head."""

    rank: int
    alpha: float
    dropout: float
    modules: tuple[str, ...]
    modules_to_save: tuple[str, ...]
    method: Method


def add_adapter(network: Any, form: AdapterForm) -> Any:
    """Return the network with a fresh adapter on it, its weights frozen.

    One factor is zero, so that nothing has changed yet; the others are random, by the current seed of torch.
    """
    from peft import get_peft_model

    with warnings.catch_warnings():
        # peft asks the network by a name that transformers is about to drop; nothing for the user to do.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        return get_peft_model(network, _config(form))


def _config(form: AdapterForm) -> Any:
    """Return a form as peft has it. For strengths it says int, and computes with floats."""
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    common: dict[str, Any] = {
        "r": form.rank, "target_modules": sorted(form.modules), "task_type": "CAUSAL_LM",
        "modules_to_save": sorted(form.modules_to_save) or None,
    }  # fmt: skip
    match form.method:
        case "loha":
            return LoHaConfig(alpha=form.alpha, rank_dropout=form.dropout, **common)
        case "lokr":
            return LoKrConfig(
                alpha=form.alpha,
                rank_dropout=form.dropout, rank_dropout_scale=True, decompose_factor=-1, **common,
            )  # fmt: skip
    return LoraConfig(
        lora_alpha=form.alpha,
        lora_dropout=form.dropout, use_rslora=form.method == "rslora", use_dora=form.method == "dora", **common,
    )  # fmt: skip


def with_every_weight(network: Any) -> Any:
    """Return the network with every weight to be trained."""
    from transformers import GenerationConfig

    network.generation_config = GenerationConfig()  # an odd one would keep checkpoints from being saved
    for weight in network.parameters():
        weight.requires_grad_(True)
    return network


def load_weights(adapted: Any, folder: Path) -> None:
    """Put the weights of a checkpoint into the network: its adapter's, or all where it has none."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    if (folder / WEIGHTS).is_file():
        set_peft_model_state_dict(adapted, load_file(folder / WEIGHTS))
        return
    for file in weight_files(folder):
        adapted.load_state_dict(load_file(file), strict=False)
    adapted.tie_weights()


def save_adapter(adapted: Any, model: HfCheckpoint, folder: Path) -> None:
    """Write the adapter, its config and the model's tokenizer files into ``folder``: all of them, or nothing."""
    try:
        with disk_errors(folder):
            _save(adapted, model, folder)
    except BaseException:
        for file in folder.iterdir():
            _atomic.remove(file)
        raise


def _save(adapted: Any, model: HfCheckpoint, folder: Path) -> None:
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
