"""What int4 costs and takes, on real text: size, perplexity, divergence and time of each way to quantize.

    python benchmarks/quantization.py quality MODEL TEXT [--windows 12] [--table FILE.json] [--keep FOLDER]
    python benchmarks/quantization.py memory [--gigabytes 0.5 1]

``quality``: MODEL is a float checkpoint, TEXT a long UTF-8 file. The first 70 % of it is calibration text, what
is left is scored; every number is taken in ONNX Runtime with activations rounded to int8, with an empty store.
Ends with 1 when a limit is missed. With ``--table`` its rows are kept, dated; rows in that file that others than
Picual (``who``) or other ways made stay, and ``quantization_plots.py`` draws them all. With ``--keep`` the
deployed folders stay, for ``decoding.py``. Beside each digest stands what the gate found: integers that are not
the quantizer's, and the largest difference of a logit from torch at accuracy level 0.

``memory``: peak anonymous memory of quantizing and exporting seeded random checkpoints in Llama's layout without
text, in each piece of work and each of its checks, against the largest layer plus 600 MB.

Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from picual import _atomic, api, fingerprint
from picual.errors import PicualError
from picual.store.local import Store

# Name, fields of `quantize`, largest perplexity relative to the float model's, most seconds of the step.
WAYS: list[tuple[str, dict[str, Any], float, float]] = [
    ("fast, no size", {"effort": "fast"}, 1.25, 10),
    ("fast, 103 MB", {"effort": "fast", "max_size": "103MB"}, 1.15, 30),
    ("balanced, 89 MB", {"max_size": "89MB", "read_price": 10}, 1.12, 180),
    ("balanced, 103 MB", {"max_size": "103MB"}, 1.05, 180),
    ("balanced, 114 MB", {"max_size": "114MB"}, 1.03, 180),
    ("best, 89 MB", {"effort": "best", "max_size": "89MB"}, 1.12, 900),
    ("best, 103 MB", {"effort": "best", "max_size": "103MB"}, 1.05, 900),
    ("best, 114 MB", {"effort": "best", "max_size": "114MB"}, 1.03, 900),
]
LOGITS = 1e-3  # largest difference from torch at accuracy level 0
SHARE = 0.7  # of the text, to calibrate on
LARGEST_BESIDE = 600e6  # bytes


def main() -> None:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    quality_ = verbs.add_parser("quality")
    quality_.add_argument("model", type=Path)
    quality_.add_argument("text", type=Path)
    quality_.add_argument("--windows", type=int, default=12)
    quality_.add_argument("--only", default="", help="Ways whose name begins so.")
    quality_.add_argument("--table", type=Path, help="JSON file that keeps the rows.")
    quality_.add_argument("--keep", type=Path, help="Folder for the deployed models.")
    memory_ = verbs.add_parser("memory")
    memory_.add_argument("--gigabytes", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    given = parser.parse_args()
    missed = quality(given) if given.verb == "quality" else memory(given.gigabytes)
    sys.exit(f"over the limit: {', '.join(missed)}" if missed else 0)


def quality(given: argparse.Namespace) -> list[str]:
    """Print a row for each way to quantize, and return those that miss a limit."""
    model, text, windows, table = given.model, given.text, given.windows, given.table
    whole = text.read_text(encoding="utf-8")
    cut = int(SHARE * len(whole))
    missed = []
    columns = f"{'way':18} {'MB':>7} {'ppl':>7} {'ratio':>7} {'KL':>7} {'seconds':>8}"
    print(f"{columns}  {'digest':16} {'wrong':>5} {'logits':>8}")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "calibration.txt").write_text(whole[:cut], encoding="utf-8")
        (place / "scored.txt").write_text(whole[cut:], encoding="utf-8")
        for name, fields, largest, longest in WAYS:
            if not name.startswith(given.only):
                continue
            report = run(place, model, fields, windows)
            row = row_of(report, place)
            print(
                f"{name:18} {row['size']:7.2f} {row['perplexity']:7.3f} {row['ratio']:7.4f} {row['kl']:7.4f} "
                f"{row['seconds']:8.1f}  {row['digest'][:16]} {row['wrong']:5} {row['logits']:8.1e}",
                flush=True,
            )
            if row["ratio"] > largest or row["seconds"] > longest or row["wrong"] or row["logits"] > LOGITS:
                missed.append(name)
            if given.keep is not None:
                kept = given.keep / name.replace(", ", "-").replace(" ", "")
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(place / "out" / "model", kept)
            if table is not None:
                about = {"model": model.resolve().name, "text": text.name, "windows": windows}
                keep_row({"who": "Picual", "way": name, **about, **row}, table)
    return missed


def keep_row(row: dict[str, Any], table: Path) -> None:
    """Put a row into a table, in the place of the one that the same way left there before."""
    rows = json.loads(table.read_text(encoding="utf-8"))["rows"] if table.exists() else []
    rows = [one for one in rows if (one["who"], one["way"]) != (row["who"], row["way"])]
    today = datetime.now(UTC).date().isoformat()
    _atomic.write_json(table, {"date": today, "rows": [*rows, {"date": today, **row}]})


def run(place: Path, model: Path, fields: dict[str, Any], windows: int) -> dict[str, Any]:
    """Quantize, export and measure in a fresh store; return the report."""
    data = {} if fields.get("effort") == "fast" else {"data": "calibration"}
    recipe = {
        "version": 1,
        "model": str(model.resolve()),
        "data": {name: {"files": str(place / f"{name}.txt")} for name in ("calibration", "scored")},
        "passes": {"quantize": {**fields, **data}, "build-genai": {}},
        "metrics": {
            "perplexity": {"data": "scored", "windows": windows},
            "divergence": {"data": "scored", "windows": windows},
        },
        "output": str(place / "out"),
    }
    with tempfile.TemporaryDirectory() as store:
        return api.run(recipe, store=Path(store)).report


def row_of(report: dict[str, Any], place: Path) -> dict[str, Any]:
    """Return the numbers of one run."""
    before, after = report["baseline"], report["best"]
    steps = {step["name"]: step for step in report["steps"]}
    checks = {check["name"]: check["measured"] for check in steps["build-genai"]["checks"]}
    files = sorted((place / "out" / "model").glob("*.onnx*"))
    return {
        "size": sum(file.stat().st_size for file in files) / 1e6,
        "perplexity": after["perplexity"]["perplexity"],
        "ratio": after["perplexity"]["perplexity"] / before["perplexity"]["perplexity"],
        "kl": after["divergence"]["kl"],
        "seconds": steps["quantize"]["seconds"],
        "wrong": int(checks["export-integers"]),
        "logits": checks["runtime-logits"],
        "digest": fingerprint.digest([fingerprint.file_digest(file) for file in files]),
    }


def memory(gigabytes: list[float]) -> list[str]:
    """Print the peak of each size of checkpoint, and return those over the limit."""
    missed = []
    for size in gigabytes:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            layer = write_checkpoint(place / "model", int(size * 1e9))
            recipe = {
                "version": 1, "model": str(place / "model"), "output": str(place / "out"),
                "passes": {"quantize": {"effort": "fast"}, "build-genai": {}},
            }  # fmt: skip
            started = time.monotonic()
            try:
                api.run(recipe, store=place / "store")
            except PicualError as error:
                print(json.dumps(error.to_wire(), indent=1))
                missed.append(f"{size} GB")
                continue
            entries = Store(place / "store").entries()
            peaks = {one.manifest.label: round(one.manifest.peak_anonymous / 1e6) for one in entries}
            limit = (layer + LARGEST_BESIDE) / 1e6
            print(f"{size} GB: {peaks} MB, limit {limit:.0f}, {time.monotonic() - started:.0f} s", flush=True)
            if max(peaks.values()) > limit:
                missed.append(f"{size} GB")
    return missed


def write_checkpoint(folder: Path, size: int) -> int:
    """Write a seeded random checkpoint of about ``size`` bytes; return the float bytes of its largest layer."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig

    from picual.testing import tiny_model

    hidden, intermediate, vocabulary = 1024, 4096, 8192
    per_layer = 4 * hidden**2 + 3 * hidden * intermediate
    layers = max(2, (size // 2 - vocabulary * hidden) // per_layer)
    tiny_model(folder)  # for its tokenizer
    (folder / "model.safetensors").unlink()
    config = AutoConfig.for_model(
        "llama", vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate,
        num_hidden_layers=layers, num_attention_heads=16, num_key_value_heads=16, max_position_embeddings=2048,
        tie_word_embeddings=True, bos_token_id=256, eos_token_id=257, dtype="bfloat16",
    )  # fmt: skip
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * shape[-1] ** -0.5).bfloat16()

    index: dict[str, str] = {}
    for number in range(-1, layers):
        if number < 0:
            tensors = {"model.embed_tokens.weight": random(vocabulary, hidden)}
            tensors["model.norm.weight"] = ones(hidden)
        else:
            stem = f"model.layers.{number}."
            tensors = {f"{stem}self_attn.{part}_proj.weight": random(hidden, hidden) for part in "qkvo"}
            for part in ("gate", "up"):
                tensors[f"{stem}mlp.{part}_proj.weight"] = random(intermediate, hidden)
            tensors[f"{stem}mlp.down_proj.weight"] = random(hidden, intermediate)
            for part in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"{stem}{part}.weight"] = ones(hidden)
        file = f"model-{number + 1:05}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return 4 * max(per_layer, vocabulary * hidden)


def ones(size: int) -> Any:
    """Return the weight of a norm."""
    import torch

    return torch.ones(size, dtype=torch.bfloat16)


if __name__ == "__main__":
    main()
