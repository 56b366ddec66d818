"""ONNX Runtime GenAI folders that answer. Text and generation go through the runtime that will serve them.

Logits at every position come from plain ONNX Runtime on the decoder's file, which the runtime's generator
does not promise. Only one of the two holds the weights at a time.
"""

from __future__ import annotations

import json
import math
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picual import _lazy
from picual.errors import BadValue, UnreadableModel
from picual.models.adapter_files import adapters_of, arrays_of, chosen
from picual.models.answers import (
    HALF_A_CHARACTER,
    Pieces,
    common_prefix,
    cut,
    equal_lengths,
    has_stop,
    not_finite,
)
from picual.models.genai_decoder import NEEDED_BY, Cache, Decoder, unreadable
from picual.models.hf_session import check_sampling, no_chat_template, template_refuses
from picual.models.likelihood import Likelihood, Row, by_prompt, likelihood
from picual.models.onnx import GenaiModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_PROMPTS = 32  # in one batch
MOST_TOKENS = 4096  # in one batch
SHORTEST_SHARED = 8  # tokens; a shorter common beginning is not worth its cache
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}


class GenaiSession:
    """One GenAI folder, loaded for answering.

    Args:
        model: The folder.
        threads: Of the runtime.
        packed: Whether weights are packed for its kernels, which takes about their size in memory. Otherwise they
            stay mapped from the file and every run is several times slower; rounding activations needs packing.
        adapter: Which of the folder's adapters answers, or ``none``; None: the one that the folder says.
    """

    def __init__(
        self, model: GenaiModel, *, threads: int, packed: bool = True, adapter: str | None = None
    ) -> None:
        self._og = _lazy.need("onnxruntime_genai", extra="cpu", by=NEEDED_BY)
        self._og.disable_telemetry_events()
        self._path = model.path
        self._threads = threads
        self._packed = packed
        self._adapter = chosen(model.path, adapter)
        self._config: dict[str, Any] = model.config()["model"]
        self._decoder = model.decoder()
        if not self._decoder.is_file():
            raise UnreadableModel(f"`{self._decoder.name}` is missing", where=str(model.path), hint="export again")
        # Everything native lives in here and nowhere else, to be let go in order, at the latest when Python
        # ends: the runtime complains of leaks otherwise.
        self._held: dict[str, Any] = {}
        self._loaded_adapters: set[str] = set()
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

    def first_id(self) -> int:
        """Return the id that a text with nothing before it follows: of BOS, or of EOS where there is none."""
        return int(self._config.get("bos_token_id") or min(self._ends(), default=0))

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
        found: npt.NDArray[np.float32] = self._scorer().run(ids[None])[0][0]
        return found

    def likelihoods(self, rows: Sequence[Row]) -> list[Likelihood]:
        """Return how likely the ids of each continuation are after the ids of its prompt.

        Each prompt goes through once, and what all of them begin with goes through once for all.
        """
        decoder = self._scorer()
        asked = by_prompt(rows)
        shared, start = _read_once(decoder, [list(prompt) for prompt in asked])
        found: dict[int, Likelihood] = {}
        for prompt, indices in asked.items():
            texts = {index: rows[index][1] for index in indices}
            found |= _follow(decoder, prompt, prompt[shared:], start, texts)
        return [found[index] for index in range(len(rows))]

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """Continue each prompt greedily until EOS, ``max_new_tokens`` or a stop text (left out of the answer).

        Prompts of equal length go through together, so that nothing is padded: each answer is its own.
        """
        rows = [self._start(prompt) for prompt in prompts]
        answers = [""] * len(rows)
        for group in equal_lengths([len(row) for row in rows], most=MOST_PROMPTS, tokens=MOST_TOKENS):
            asked = [prompts[index] for index in group]
            written = self._finish([rows[index] for index in group], max_new_tokens, stop, asked)
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

    def forward(self, ids: npt.NDArray[np.int64]) -> None:
        """Run the network once over rows of one length (R, T) and leave its logits where they are."""
        self._scorer().run(ids)

    def warm(self) -> None:
        """Load now what answering needs; without it, the first answer does."""
        self._held.pop("scorer", None)
        if "model" not in self._held:
            self._held["model"] = self._loaded("model", self._load_model)
            self._load_adapter()

    def use(self, adapter: str | None) -> None:
        """Let another of the folder's adapters answer from now on, ``none``, or the folder's own choice."""
        self._adapter = chosen(self._path, adapter)
        for name in ("generator", "scorer"):
            self._held.pop(name, None)
        if "model" in self._held:
            self._load_adapter()

    def close(self) -> None:
        """Give the memory back."""
        self._let_go()

    def _start(self, prompt: str) -> list[int]:
        """Return the ids of a prompt; an empty one starts as a document does."""
        return self.encode(prompt) or [self.first_id()]

    def _ends(self) -> set[int]:
        named = self._config.get("eos_token_id", [])
        return {int(token) for token in (named if isinstance(named, list) else [named])}

    def _special(self, stops: Sequence[str]) -> set[int]:
        """Return the ids that end an answer: EOS, and stop texts that decoded text does not show."""
        ids = [self.encode(stop) for stop in stops]
        return self._ends() | {row[0] for row in ids if len(row) == 1 and not self.decode(row)}

    def _finish(
        self, rows: list[list[int]], most: int, stop: Sequence[str], asked: Sequence[str]
    ) -> list[list[int]]:
        """Continue rows of equal length; a row that is done is ignored until the others are, too."""
        ends = self._special(stop)
        written: list[list[int]] = [[] for _ in rows]
        going = set(range(len(rows)))
        if most > 0:
            self._open_generator(rows, most, GREEDY)
            self._read(rows)
            self._require_finite(asked)
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
        self.warm()
        self._held.pop("generator", None)
        parameters = self._og.GeneratorParams(self._held["model"])
        parameters.set_search_options(max_length=longest, batch_size=len(rows), **options)
        generator = self._held["generator"] = self._og.Generator(self._held["model"], parameters)
        if self._adapter is not None:
            generator.set_active_adapter(self._held["adapters"], self._adapter)

    def _read(self, rows: list[list[int]]) -> None:
        """Run the prompts through the network."""
        import numpy as np

        self._held["generator"].append_tokens(np.asarray(rows, dtype=np.int32))

    def _require_finite(self, asked: Sequence[str]) -> None:
        """Refuse logits that are no numbers: the best token of them is an answer like any other."""
        import numpy as np

        logits = np.asarray(self._held["generator"].get_logits())  # (R, 1 or T, vocabulary)
        for prompt, highest in zip(asked, logits[:, -1].max(axis=-1), strict=True):
            if not math.isfinite(float(highest)):
                raise not_finite(prompt, str(self._path))

    def _next_tokens(self) -> list[int]:
        """Write one token a row and return them."""
        self._held["generator"].generate_next_token()
        return [int(token) for token in self._held["generator"].get_next_tokens()]

    def _load_model(self) -> Any:
        config = self._og.Config(str(self._path))
        options: dict[str, Any] = {"intra_op_num_threads": self._threads}
        if not self._packed:
            options["session.disable_prepacking"] = "1"
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        return self._og.Model(config)

    def _load_adapter(self) -> None:
        """Load the adapter that answers, unless it is loaded; it stays so until the model is let go."""
        if "adapters" not in self._held and self._adapter is not None:
            self._held["adapters"] = self._og.Adapters(self._held["model"])
            self._loaded_adapters.clear()
        if self._adapter is not None and self._adapter not in self._loaded_adapters:
            file = adapters_of(self._path)[self._adapter]
            self._loaded("adapter", self._held["adapters"].load, str(file), self._adapter)
            self._loaded_adapters.add(self._adapter)

    def _loaded(self, what: str, load: Any, *arguments: str) -> Any:
        try:
            return load(*arguments)
        except RuntimeError as error:
            raise unreadable(what, error, str(self._path)) from error

    def _scorer(self) -> Decoder:
        """Return the decoder in the plain runtime; the generator's weights are let go for it."""
        if "scorer" not in self._held:
            for name in ("generator", "adapters", "model"):
                self._held.pop(name, None)
            adapter = {} if self._adapter is None else arrays_of(adapters_of(self._path)[self._adapter])
            self._held["scorer"] = Decoder(self._decoder, self._config, self._threads, adapter)
        scorer: Decoder = self._held["scorer"]
        return scorer


def _let_go(held: dict[str, Any]) -> None:
    """Drop what is loaded, each before what it was made from."""
    for name in ("generator", "scorer", "adapters", "model", "tokenizer"):
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


def _read_once(decoder: Decoder, prompts: list[list[int]]) -> tuple[int, Cache | None]:
    """Run what all prompts begin with, each left at least one token; return its length and its cache."""
    if len(prompts) < 2 or not decoder.remembers:
        return 0, None
    shared = min(common_prefix(prompts), min(len(prompt) for prompt in prompts) - 1)
    if shared < SHORTEST_SHARED:
        return 0, None
    return shared, decoder.run(_one_row(prompts[0][:shared]), keep=True)[1]


def _follow(
    decoder: Decoder, prompt: Sequence[int], rest: Sequence[int], start: Cache | None,
    texts: Mapping[int, Sequence[int]],
) -> dict[int, Likelihood]:  # fmt: skip
    """Return how likely each text is after one prompt, of which ``rest`` is not in the cache yet."""
    import numpy as np

    branches = decoder.remembers and any(len(text) > 1 for text in texts.values())
    logits, cache = decoder.run(_one_row(rest), start, keep=branches)
    last = logits[0, -1:]  # (1, V): all that a continuation of one token needs
    found: dict[int, Likelihood] = {}
    for index, text in texts.items():
        later = last[:0]
        if len(text) > 1 and branches:
            later = decoder.run(_one_row(text[:-1]), cache)[0][0]
        elif len(text) > 1:
            later = decoder.run(_one_row([*prompt, *text[:-1]]))[0][0][len(prompt) :]
        found[index] = likelihood(np.concatenate([last, later]), text)
    return found


def _one_row(ids: Sequence[int]) -> npt.NDArray[np.int64]:
    import numpy as np

    return np.asarray([list(ids)], dtype=np.int64)
