"""ONNX Runtime GenAI folders that answer. Text and generation go through the runtime that will serve them.

Logits at every position come from plain ONNX Runtime on the decoder's file, which the runtime's generator
does not promise. Only one of the two holds the weights at a time.
"""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picual import _lazy
from picual.errors import BadValue, Refused, UnreadableModel
from picual.models.answers import HALF_A_CHARACTER, Pieces, cut, equal_lengths, has_stop
from picual.models.hf_session import check_sampling, no_chat_template, template_refuses
from picual.models.onnx import GenaiModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_PROMPTS = 32  # in one batch
MOST_TOKENS = 4096  # in one batch
NEEDED_BY = "an ONNX Runtime GenAI model"
ARRAY_TYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64", "tensor(int32)": "int32",
}  # fmt: skip
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}


class GenaiSession:
    """One GenAI folder, loaded for answering."""

    def __init__(self, model: GenaiModel, *, threads: int) -> None:
        self._og = _lazy.need("onnxruntime_genai", extra="cpu", by=NEEDED_BY)
        self._og.disable_telemetry_events()
        self._path = model.path
        self._threads = threads
        self._config: dict[str, Any] = model.config()["model"]
        self._decoder = model.decoder()
        if not self._decoder.is_file():
            raise UnreadableModel(f"`{self._decoder.name}` is missing", where=str(model.path), hint="export again")
        # Everything native lives in here and nowhere else, to be let go in order, at the latest when Python
        # ends: the runtime complains of leaks otherwise.
        self._held: dict[str, Any] = {}
        self._let_go = weakref.finalize(self, _let_go, self._held)
        self._held["tokenizer"] = self._loaded("tokenizer", self._og.Tokenizer, str(model.path))

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text``, special tokens in the text recognised, none added."""
        return [int(token) for token in self._held["tokenizer"].encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens left out."""
        if not len(ids):
            return ""
        text = self._read_back(ids)
        # The runtime shows a text that is empty, such as that of special tokens alone, as half a character.
        # Real half characters stay when more text follows.
        if text == HALF_A_CHARACTER and HALF_A_CHARACTER not in self._read_back([*ids, *self.encode("a")]):
            return ""
        return text

    def _read_back(self, ids: Sequence[int]) -> str:
        import numpy as np

        return str(self._held["tokenizer"].decode(np.asarray(ids, dtype=np.int32)))

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> str:
        """Return the messages in the model's own chat template, ready to be continued by the assistant."""
        if not _has_chat_template(self._path):
            raise no_chat_template(str(self._path))
        as_json = json.dumps(list(messages), ensure_ascii=False)
        try:
            return str(self._held["tokenizer"].apply_chat_template(as_json, add_generation_prompt=True))
        except RuntimeError as error:
            raise template_refuses(error, str(self._path)) from error

    def logits(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the next-token logits (T, vocabulary) at every position of ``ids`` (T)."""
        import numpy as np

        session = self._scorer()
        name = self._config["decoder"].get("outputs", {}).get("logits", "logits")
        found = session.run([name], {item.name: self._input(item, ids) for item in session.get_inputs()})[0][0]
        if len(found) != len(ids):
            raise Refused(
                f"the model gives logits at {len(found)} of {len(ids)} positions",
                where=str(self._decoder),
                hint="export it without pruning the head",
            )
        return np.asarray(found, dtype=np.float32)

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """Continue each prompt greedily until EOS, ``max_new_tokens`` or a stop text (left out of the answer).

        Prompts of equal length go through together, so that nothing is padded: each answer is its own.
        """
        rows = [self._start(prompt) for prompt in prompts]
        answers = [""] * len(rows)
        for group in equal_lengths([len(row) for row in rows], most=MOST_PROMPTS, tokens=MOST_TOKENS):
            written = self._finish([rows[index] for index in group], max_new_tokens, stop)
            for index, ids in zip(group, written, strict=True):
                answers[index] = cut(self.decode(ids), stop)
        return answers

    def stream(self, prompt: str, *, max_new_tokens: int, sampling: dict[str, Any] | None = None) -> Iterator[str]:
        """Continue one prompt, piece by piece; ``sampling`` holds temperature, top_p, top_k, seed."""
        check_sampling(sampling or {})
        ends = self._ends()
        row = self._start(prompt)
        self._open_generator([row], max_new_tokens, _search_options(sampling or {}))
        self._read([row])
        pieces = Pieces(self.decode)
        for _ in range(max_new_tokens):
            (token,) = self._next_tokens()
            if token in ends:
                break
            if piece := pieces.add(token):
                yield piece
        if piece := pieces.rest():
            yield piece

    def step_times(self, ids: Sequence[int], new_tokens: int) -> list[float]:
        """Return the seconds until the first new token, then of each further one; EOS does not end it."""
        times: list[float] = []
        self._open_generator([list(ids)], new_tokens, {**GREEDY, "min_length": len(ids) + new_tokens})
        started = time.perf_counter()
        self._read([list(ids)])
        for _ in range(new_tokens):
            self._next_tokens()
            times.append(time.perf_counter() - started)
            started = time.perf_counter()
        self._held.pop("generator")
        return times

    def close(self) -> None:
        """Give the memory back."""
        self._let_go()

    def _start(self, prompt: str) -> list[int]:
        """Return the ids of a prompt; an empty one starts as a document does."""
        return self.encode(prompt) or [int(self._config.get("bos_token_id") or min(self._ends(), default=0))]

    def _ends(self) -> set[int]:
        named = self._config.get("eos_token_id", [])
        return {int(token) for token in (named if isinstance(named, list) else [named])}

    def _special(self, stops: Sequence[str]) -> set[int]:
        """Return the ids that end an answer: EOS, and stop texts that decoded text does not show."""
        ids = [self.encode(stop) for stop in stops]
        return self._ends() | {row[0] for row in ids if len(row) == 1 and not self.decode(row)}

    def _finish(self, rows: list[list[int]], most: int, stop: Sequence[str]) -> list[list[int]]:
        """Continue rows of equal length; a row that is done is ignored until the others are, too."""
        ends = self._special(stop)
        written: list[list[int]] = [[] for _ in rows]
        going = set(range(len(rows)))
        if most > 0:
            self._open_generator(rows, most, GREEDY)
            self._read(rows)
        for _ in range(most):
            tokens = self._next_tokens()
            for place in sorted(going):
                if tokens[place] in ends:
                    going.remove(place)
                    continue
                written[place].append(tokens[place])
                if stop and has_stop(self.decode(written[place]), stop):
                    going.remove(place)
            if not going:
                break
        self._held.pop("generator", None)
        return written

    def _open_generator(self, rows: list[list[int]], new_tokens: int, options: dict[str, Any]) -> None:
        """Make a generator for ``rows``, all of one length, and for as many new tokens.

        Its cache is as long as ``max_length`` says, so that says no more than is needed.
        """
        longest = len(rows[0]) + new_tokens
        context = int(self._config.get("context_length", longest))
        if longest > context:
            raise BadValue(
                f"prompt and answer take {longest} tokens and the model's context is {context}",
                where=str(self._path),
                hint="shorten the prompt, or ask for fewer new tokens",
            )
        self._held.pop("scorer", None)
        if "model" not in self._held:
            self._held["model"] = self._loaded("model", self._load_model)
        self._held.pop("generator", None)
        parameters = self._og.GeneratorParams(self._held["model"])
        parameters.set_search_options(max_length=longest, batch_size=len(rows), **options)
        self._held["generator"] = self._og.Generator(self._held["model"], parameters)

    def _read(self, rows: list[list[int]]) -> None:
        """Run the prompts through the network."""
        import numpy as np

        self._held["generator"].append_tokens(np.asarray(rows, dtype=np.int32))

    def _next_tokens(self) -> list[int]:
        """Write one token a row and return them."""
        self._held["generator"].generate_next_token()
        return [int(token) for token in self._held["generator"].get_next_tokens()]

    def _load_model(self) -> Any:
        config = self._og.Config(str(self._path))
        threads = {"session_options": {"intra_op_num_threads": self._threads}}
        config.overlay(json.dumps({"model": {"decoder": threads}}))
        return self._og.Model(config)

    def _loaded(self, what: str, load: Any, *arguments: str) -> Any:
        try:
            return load(*arguments)
        except RuntimeError as error:
            raise _unreadable(what, error, str(self._path)) from error

    def _scorer(self) -> Any:
        """Return the plain runtime's session; the generator's weights are let go for it."""
        if "scorer" not in self._held:
            for name in ("generator", "model"):
                self._held.pop(name, None)
            self._held["scorer"] = _open_decoder(self._decoder, self._config, self._threads)
        return self._held["scorer"]

    def _input(self, item: Any, ids: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return what an input of the decoder gets for one row of ids with nothing before it."""
        import numpy as np

        inputs = self._config["decoder"].get("inputs", {})
        dtype = np.dtype(ARRAY_TYPES.get(item.type, "float32"))
        if item.name == inputs.get("input_ids", "input_ids"):
            return ids[None].astype(dtype)
        if item.name == inputs.get("attention_mask", "attention_mask"):
            return np.ones((1, len(ids)), dtype)
        if item.name == inputs.get("position_ids", "position_ids"):
            return np.arange(len(ids), dtype=dtype)[None]
        if len(item.shape) == 4:  # keys or values of one layer: (1, heads, 0, head size)
            decoder = self._config["decoder"]
            heads, size = item.shape[1], item.shape[3]
            return np.zeros(
                (
                    1,
                    heads if isinstance(heads, int) else int(decoder["num_key_value_heads"]),
                    0,
                    size if isinstance(size, int) else int(decoder["head_size"]),
                ),
                dtype,
            )
        raise Refused(
            f"the decoder has an input `{item.name}` of shape {item.shape}, which scoring has no value for",
            where=str(self._decoder),
            hint="export a plain decoder",
        )


def _let_go(held: dict[str, Any]) -> None:
    """Drop what is loaded, each before what it was made from."""
    for name in ("generator", "scorer", "model", "tokenizer"):
        held.pop(name, None)


def _search_options(sampling: dict[str, Any]) -> dict[str, Any]:
    if not sampling.get("temperature"):
        return GREEDY
    options: dict[str, Any] = {**GREEDY, "do_sample": True, "temperature": float(sampling["temperature"])}
    options["top_k"] = int(sampling.get("top_k") or 0)
    options["top_p"] = float(sampling.get("top_p") or 1.0)
    if sampling.get("seed") is not None:
        options["random_seed"] = int(sampling["seed"])
    return options


def _has_chat_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and '"chat_template"' in config.read_text(encoding="utf-8")


def _open_decoder(decoder: Path, config: dict[str, Any], threads: int) -> Any:
    onnxruntime = _lazy.need("onnxruntime", extra="cpu", by=NEEDED_BY)
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors alone
    wanted = [
        next(iter(entry)) for entry in config["decoder"].get("session_options", {}).get("provider_options", [])
    ]
    providers = [
        name
        for name in onnxruntime.get_available_providers()
        if name.removesuffix("ExecutionProvider").lower() in wanted
    ]
    try:
        return onnxruntime.InferenceSession(decoder, options, providers=[*providers, "CPUExecutionProvider"])
    except (
        native.Fail,
        native.InvalidProtobuf,
        native.InvalidGraph,
        native.NoSuchFile,
        native.RuntimeException,
    ) as error:
        raise _unreadable("model", error, str(decoder)) from error


def _unreadable(what: str, error: Exception, where: str) -> UnreadableModel:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return UnreadableModel(f"ONNX Runtime cannot load the {what} ({reason})", where=where, hint="export it again")
