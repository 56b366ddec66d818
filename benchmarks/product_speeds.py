"""What a million weights of one token cost by bits and block, in ONNX Runtime's kernels on this processor.

    python benchmarks/product_speeds.py [--threads 2]

Each matrix is multiplied from about 150 million weights of its kind, so that it comes from memory as it does while
a model decodes. Prints microseconds. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper

FORMATS = [(bits, block) for bits in (4, 8, 2) for block in (32, 64, 128)]
MATRICES = [
    ("head", 49152, 576),
    ("gate and up", 3072, 576),
    ("query, key and value", 960, 576),
    ("down", 576, 1536),
]
WEIGHTS = 150_000_000


def main() -> None:
    """Print a row for each matrix."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--threads", type=int, default=2)
    threads = asked.parse_args().threads
    print(f"{'':34}" + "".join(f"int{bits} {block:<4} " for bits, block in FORMATS))
    for name, height, width in MATRICES:
        found = [microseconds(height, width, bits, block, threads) for bits, block in FORMATS]
        print(f"{name + f', {width} to {height}':34}" + "".join(f"{one:8.1f} " for one in found), flush=True)


def microseconds(height: int, width: int, bits: int, block: int, threads: int) -> float:
    """Return what a million weights cost, the best of five."""
    count = max(2, WEIGHTS // (height * width))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    graph = model(height, width, bits, block, count).SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    feed = {"x": np.random.default_rng(0).standard_normal((1, width), np.float32)}
    session.run(None, feed)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        session.run(None, feed)
        seconds.append(time.perf_counter() - start)
    return min(seconds) * 1e12 / (count * height * width)


def model(height: int, width: int, bits: int, block: int, count: int) -> ModelProto:
    """Return so many multiplications of one input."""
    chance = np.random.default_rng(0)
    blocks = -(-width // block)
    shapes = {
        "q": chance.integers(0, 256, (height, blocks, block * bits // 8), np.uint8),
        "s": chance.random((height, blocks), np.float32),
        "z": chance.integers(0, 256, (height, -(-blocks * bits // 8)), np.uint8),
    }
    weights, nodes = [], []
    for number in range(count):
        names = [f"{part}{number}" for part in shapes]
        weights += [numpy_helper.from_array(shapes[name[0]], name) for name in names]
        nodes.append(
            helper.make_node(
                "MatMulNBits", ["x", *names], [f"y{number}"], domain="com.microsoft", K=width, N=height, bits=bits,
                block_size=block, accuracy_level=4,
            )
        )  # fmt: skip
    outputs = [helper.make_tensor_value_info(f"y{n}", TensorProto.FLOAT, [1, height]) for n in range(count)]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, width])]
    graph = helper.make_graph(nodes, "kernels", given, outputs, weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


if __name__ == "__main__":
    main()
