"""How fast deployed folders answer, in turn with others in one process each round: prompt 128, 128 new tokens.

    python benchmarks/decoding.py OURS THEIRS [OURS THEIRS ...] [--llama PYTHON FILE.gguf] [--rounds 8]

Every folder is one that ONNX Runtime GenAI loads, with the same number of threads set, and once with its own
settings. With ``--llama`` a GGUF file is timed in turn too, by llama-cpp-python in that interpreter. Beside each
rate stands the share of the memory's bandwidth that it uses: what kernels read for a token, from the graph, times
the rate. Ends with 1 where ours is below a limit. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime_genai as genai

from picual import fingerprint
from picual.numerics.block_sizes import bytes_read

PROMPT, NEW = 128, 128  # tokens
LIMITS = {"decode": 1.08, "prefill": 1.2}  # of ours to theirs; 1.1 where theirs is 100 MB and more
LARGE, LARGE_LIMIT = 100.0, 1.1
LLAMA_LIMIT = 1.2
# Runs in another interpreter: a line in, a line of JSON out.
LLAMA = """
import json, sys, time
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=512, n_threads=int(sys.argv[2]), n_threads_batch=int(sys.argv[2]), verbose=False)
ids = json.loads(sys.argv[3])
for _ in sys.stdin:
    model.reset()
    start = time.perf_counter()
    model.eval(ids)
    token = model.sample(temp=0.0)
    first = time.perf_counter()
    for _ in range(int(sys.argv[4]) - 1):
        model.eval([token])
        token = model.sample(temp=0.0)
    end = time.perf_counter()
    print(json.dumps([len(ids) / (first - start), (int(sys.argv[4]) - 1) / (end - first)]), flush=True)
"""


class Folder:
    """One folder in ONNX Runtime GenAI; ``threads`` 0 leaves them to the folder."""

    def __init__(self, path: Path, threads: int) -> None:
        self._ids = prompt_of(path)
        config = genai.Config(str(path))
        if threads:
            options = {"session_options": {"intra_op_num_threads": threads}}
            config.overlay(json.dumps({"model": {"decoder": options}}))
        self._model = genai.Model(config)
        self.path = path
        self.size = sum(file.stat().st_size for file in path.glob("*.onnx*")) / 1e6
        self.read = read_of(path / "model.onnx")

    def rates(self) -> tuple[float, float]:
        """Return tokens a second of the prompt, and after it."""
        params = genai.GeneratorParams(self._model)
        params.set_search_options(max_length=PROMPT + NEW, min_length=PROMPT + NEW, do_sample=False)
        generator = genai.Generator(self._model, params)
        start = time.perf_counter()
        generator.append_tokens(self._ids)
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(NEW - 1):
            generator.generate_next_token()
        return PROMPT / (first - start), (NEW - 1) / (time.perf_counter() - first)


class Llama:
    """One GGUF file in llama.cpp, in a process of its own."""

    def __init__(self, python: str, file: Path, threads: int, ids: list[int]) -> None:
        command = [python, "-c", LLAMA, str(file), str(threads), json.dumps(ids), str(NEW)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.path, self.size, self.read = file, file.stat().st_size / 1e6, 0.0

    def rates(self) -> tuple[float, float]:
        """Return tokens a second of the prompt, and after it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        prompt, new = json.loads(self._process.stdout.readline())
        return prompt, new


def prompt_of(path: Path) -> npt.NDArray[np.int32]:
    """Return ids that the vocabulary of a folder has, the same for folders of one vocabulary."""
    words = json.loads((path / "genai_config.json").read_text())["model"]["vocab_size"]
    return np.random.default_rng(0).integers(words // 50, words * 4 // 5, PROMPT).astype(np.int32)


def read_of(file: Path) -> float:
    """Return the MB that the kernels of a graph read for each token."""
    total = 0
    graph = onnx.load(file, load_external_data=False).graph
    weights = {one.name: one.dims for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMul":
            total += sum(4 * math.prod(weights[name]) for name in node.input if name in weights)
        if node.op_type == "MatMulNBits":
            of = {one.name: one.i for one in node.attribute}
            total += bytes_read(of["N"], of["K"], bits=of["bits"], block=of["block_size"])
    return total / 1e6


def bandwidth(threads: int) -> float:
    """Return GB a second that so many threads read from memory."""
    import torch

    torch.set_num_threads(threads)
    numbers = torch.ones(200_000_000)
    numbers.sum()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        numbers.sum()
        seconds.append(time.perf_counter() - start)
    return 4 * len(numbers) / min(seconds) / 1e9


def main() -> None:
    """Time the folders in turn and compare ours with theirs."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("folders", type=Path, nargs="+")
    asked.add_argument("--llama", nargs=2, metavar=("PYTHON", "FILE"))
    asked.add_argument("--rounds", type=int, default=8)
    asked.add_argument("--threads", type=int, default=2)
    given = asked.parse_args()
    if len(given.folders) % 2:
        asked.error("folders come in pairs: ours, theirs")
    limit = bandwidth(given.threads)
    print(f"{given.threads} threads read {limit:.1f} GB/s")
    timed: list[Any] = [Folder(path, given.threads) for path in given.folders]
    if given.llama:
        timed.append(
            Llama(given.llama[0], Path(given.llama[1]), given.threads, prompt_of(given.folders[0]).tolist())
        )
    for one in timed:
        one.rates()
    rounds = [[one.rates() for one in timed] for _ in range(given.rounds)]
    for number, one in enumerate(timed):
        prompt, new = (statistics.median(row[number][which] for row in rounds) for which in (0, 1))
        share = f", {one.read * new / 1e3 / limit:.0%} of the bandwidth" if one.read else ""
        print(
            f"{one.path}: {one.size:.1f} MB, reads {one.read:.1f} MB a token; prefill {prompt:.0f}, decode "
            f"{new:.1f} tokens/s{share}; {digest_of(one.path)}"
        )
    missed = [line for line in compared(timed, rounds, llama=bool(given.llama)) if line.endswith("missed")]
    own_settings(given.folders)
    sys.exit(1 if missed else 0)


def compared(timed: list[Any], rounds: list[list[tuple[float, float]]], *, llama: bool) -> list[str]:
    """Print the median of the ratios of each round, and return the lines."""
    lines = []
    folders = len(timed) - llama
    pairs = [(number, number + 1, dict(LIMITS)) for number in range(0, folders - 1, 2)]
    if llama:
        pairs += [(number, folders, {"decode": LLAMA_LIMIT}) for number in range(0, folders, 2)]
    for ours, theirs, limits in pairs:
        if not (llama and theirs == folders) and timed[theirs].size >= LARGE:
            limits["decode"] = LARGE_LIMIT
        for which, name in enumerate(("prefill", "decode")):
            if name not in limits:
                continue
            ratio = statistics.median(row[ours][which] / row[theirs][which] for row in rounds)
            verdict = "held" if ratio >= limits[name] else "missed"
            of = f"{name} of {timed[ours].path} to {timed[theirs].path}"
            lines.append(f"{of}: x{ratio:.3f}, at least {limits[name]}: {verdict}")
            print(lines[-1])
    return lines


def own_settings(folders: list[Path]) -> None:
    """Print the rates with what each folder's own settings say: the peer's leave the threads to the runtime."""
    for path in folders:
        one = Folder(path, 0)
        one.rates()
        found = [one.rates() for _ in range(3)]
        prompt, new = (statistics.median(row[which] for row in found) for which in (0, 1))
        print(f"{path}, its own settings: prefill {prompt:.0f}, decode {new:.1f} tokens/s")


def digest_of(path: Path) -> str:
    """Return the start of the digest of the ONNX files."""
    files = sorted(path.glob("*.onnx*")) if path.is_dir() else [path]
    return fingerprint.digest([fingerprint.file_digest(file) for file in files])[:16]


if __name__ == "__main__":
    main()
