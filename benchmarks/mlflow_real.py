"""What real MLflow makes of folders: run by ``mlflow_folders.py``, with the Python of an environment that has it.

python benchmarks/mlflow_real.py load ANSWER FOLDER...     what each folder, loaded, answers
python benchmarks/mlflow_real.py save FOLDER CHECKPOINT    one folder a flavour, below FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

TEXT = "The harbour was empty, apart from two gulls and a rope. 你好 <|end|>"


def main() -> None:
    """Do what the first word says."""
    verb, *places = sys.argv[1:]
    if verb == "load":
        answers = {place: loaded(place) for place in places[1:]}
        Path(places[0]).write_text(json.dumps(answers), encoding="utf-8")
    else:
        save(Path(places[0]), places[1])


def loaded(folder: str) -> dict[str, Any]:
    """Return logits and ids of a folder's pipeline, and a text that its general flavour writes."""
    import mlflow

    pipeline = mlflow.transformers.load_model(folder)
    ids = pipeline.tokenizer(TEXT)["input_ids"]
    written = mlflow.pyfunc.load_model(folder).predict(["Rope"])
    return {"ids": ids, "logits": logits_of(pipeline.model, ids), "written": written}


def logits_of(network: Any, ids: list[int]) -> list[list[float]]:
    """Return the logits of every position."""
    with torch.no_grad():
        found: list[list[float]] = network.eval()(torch.tensor([ids])).logits[0].float().tolist()
    return found


def save(folder: Path, checkpoint: str) -> None:
    """Write a checkpoint with the flavours ``transformers`` and ``pytorch``, the latter as a pickle."""
    import mlflow
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    parts = {"model": network, "tokenizer": tokenizer}
    # Left to itself, MLflow wants to pin torchvision for every model, installed or not.
    needs = ["torch", "transformers"]
    mlflow.transformers.save_model(
        parts, str(folder / "transformers"), task="text-generation", pip_requirements=needs
    )
    mlflow.pytorch.save_model(network, str(folder / "pytorch"), serialization_format="pickle")
    # That flavour knows no tokenizer: it goes where ours is told to look for one.
    tokenizer.save_pretrained(folder / "pytorch" / "components" / "tokenizer")


if __name__ == "__main__":
    main()
