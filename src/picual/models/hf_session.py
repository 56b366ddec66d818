"""Checkpoints and adapters that answer, through ``transformers`` and ``peft``.

On a CPU the weights are float32, whatever the checkpoint holds; on a GPU they are as stored. Adapters are
merged in float32 while loading: the arithmetic of the merged model, without the cost of a wrapped one.
"""

from __future__ import annotations

import copy
import gc
import math
import time
from collections.abc import Iterator, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any

from picual import _lazy
from picual.errors import BadValue, Refused
from picual.models.answers import Pieces, batches, common_prefix, cut, has_stop, not_finite
from picual.models.hf import HfAdapter, HfCheckpoint
from picual.models.hf_loading import first_line, load_network, load_tokenizer, quiet
from picual.models.likelihood import Likelihood, Row, by_prompt, likelihood

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_PROMPTS = 32  # in one batch
MOST_TOKENS = 4096  # in one batch, padding included: bounds the activations
MOST_SCORED = 1024  # positions in one batch whose logits are kept
SHORTEST_SHARED = 8  # tokens; a shorter common beginning is not worth copying its cache
NEEDED_BY = "a Hugging Face model"


class HfSession:
    """One checkpoint, with its adapters if it has some, loaded for answering."""

    def __init__(self, model: HfCheckpoint | HfAdapter, *, threads: int) -> None:
        torch = _lazy.need("torch", extra="hf", by=NEEDED_BY)
        _lazy.need("transformers", extra="hf", by=NEEDED_BY)
        torch.set_num_threads(threads)
        root = model if isinstance(model, HfCheckpoint) else model.root()
        self._path = model.path
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        with quiet():
            self._tokenizer = load_tokenizer(root)
            self._model = load_network(model, on_gpu=self._device == "cuda").to(self._device).eval()
        self._ends = _end_ids(self._model, self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text``, special tokens in the text recognised, none added."""
        with quiet():  # a whole book is longer than the context; scoring cuts it into windows
            return [int(token) for token in self._tokenizer(text, add_special_tokens=False)["input_ids"]]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def first_id(self) -> int:
        """Return the id that a text with nothing before it follows: of BOS, or of EOS where there is none."""
        first = self._tokenizer.bos_token_id
        return int(first) if first is not None else next(iter(self._ends), 0)

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> str:
        """Return the messages in the model's own chat template, ready to be continued by the assistant."""
        if not self._tokenizer.chat_template:
            raise no_chat_template(str(self._path))
        from jinja2 import TemplateError

        try:
            return str(
                self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
            )
        except TemplateError as error:
            raise template_refuses(error, str(self._path)) from error

    def logits(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the next-token logits (T, vocabulary) at every position of ``ids`` (T)."""
        with self._torch.inference_mode():
            found = self._model(input_ids=self._tensor([ids.tolist()]), use_cache=False).logits[0]
        scores: npt.NDArray[np.float32] = found.float().cpu().numpy()
        return scores

    def likelihoods(self, rows: Sequence[Row]) -> list[Likelihood]:
        """Return how likely the ids of each continuation are after the ids of its prompt.

        Each prompt goes through once, and what all of them begin with goes through once for all.
        """
        asked = by_prompt(rows)
        prompts = [list(prompt) for prompt in asked]
        found: dict[int, Likelihood] = {}
        with self._torch.inference_mode():
            shared, cache = self._read_once(prompts)
            rests = [prompt[shared:] for prompt in prompts]
            for group in batches([len(rest) for rest in rests], most=MOST_PROMPTS, tokens=MOST_TOKENS):
                batch = _Batch(self._torch, self._device, [rests[index] for index in group], shared, cache)
                wanted = [
                    (place, row) for place, index in enumerate(group) for row in asked[tuple(prompts[index])]
                ]
                found |= self._follow(batch, wanted, rows)
        return [found[index] for index in range(len(rows))]

    def _follow(
        self, batch: _Batch, wanted: Sequence[tuple[int, int]], rows: Sequence[Row]
    ) -> dict[int, Likelihood]:
        """Return the likelihoods of continuations, each given as (place of its prompt in the batch, row)."""
        import numpy as np

        first = batch.step(self._model).cpu().numpy()  # (R, V): all that a continuation of one token needs
        if not _is_plain(batch.cache):  # nothing can be tried and taken back
            return {row: self._in_full(rows[row]) for _, row in wanted}
        short = [(place, row) for place, row in wanted if len(rows[row][1]) == 1]
        found = {row: likelihood(first[place][None], rows[row][1]) for place, row in short}
        longer = [(place, row) for place, row in wanted if len(rows[row][1]) > 1]
        lengths = [len(rows[row][1]) - 1 for _, row in longer]
        for group in batches(lengths, most=MOST_PROMPTS, tokens=MOST_SCORED):
            places = [longer[index][0] for index in group]
            texts = [list(rows[longer[index][1]][1]) for index in group]
            later = batch.branch(self._model, places, [text[:-1] for text in texts]).cpu().numpy()
            for number, (place, text) in enumerate(zip(places, texts, strict=True)):
                logits = np.concatenate([first[place][None], later[number, : len(text) - 1]])
                found[longer[group[number]][1]] = likelihood(logits, text)
        return found

    def _in_full(self, row: Row) -> Likelihood:
        import numpy as np

        prompt, text = row
        logits = self.logits(np.asarray([*prompt, *text], dtype=np.int64))
        return likelihood(logits[len(prompt) - 1 : -1], text)

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """Continue each prompt greedily until EOS, ``max_new_tokens`` or a stop text (left out of the answer).

        Prompts of like length go through together, and what all of them begin with goes through once.
        """
        rows = [self._start(prompt) for prompt in prompts]
        ends = self._ends | self._special(stop)
        answers = [""] * len(rows)
        with self._torch.inference_mode():
            shared, cache = self._read_once(rows)
            rests = [row[shared:] for row in rows]
            for group in batches([len(rest) for rest in rests], most=MOST_PROMPTS, tokens=MOST_TOKENS):
                batch = _Batch(self._torch, self._device, [rests[index] for index in group], shared, cache)
                asked = [prompts[index] for index in group]
                for index, ids in zip(group, self._finish(batch, max_new_tokens, stop, ends, asked), strict=True):
                    answers[index] = cut(self.decode(ids), stop)
        return answers

    def stream(self, prompt: str, *, max_new_tokens: int, sampling: dict[str, Any] | None = None) -> Iterator[str]:
        """Continue one prompt, piece by piece; ``sampling`` holds temperature, top_p, top_k, seed."""
        pick = _Picker(self._torch, self._device, sampling or {})
        pieces = Pieces(self.decode)
        batch = _Batch(self._torch, self._device, [self._start(prompt)], 0, None)
        for _ in range(max_new_tokens):
            with self._torch.inference_mode():
                token = pick(batch.step(self._model))
            if int(token) in self._ends:
                break
            if piece := pieces.add(int(token)):
                yield piece
            batch.take(token, [0])
        if piece := pieces.rest():
            yield piece

    def step_times(self, ids: Sequence[int], new_tokens: int) -> list[float]:
        """Return the seconds until the first new token, then of each further one; EOS does not end it."""
        batch = _Batch(self._torch, self._device, [list(ids)], 0, None)
        times: list[float] = []
        with self._torch.inference_mode():
            for _ in range(new_tokens):
                started = time.perf_counter()
                token = batch.step(self._model).argmax(-1)
                token.tolist()  # waits for a GPU
                times.append(time.perf_counter() - started)
                batch.take(token, [0])
        return times

    def forward(self, ids: npt.NDArray[np.int64]) -> None:
        """Run the network once over rows of one length (R, T) and leave its logits where they are."""
        with self._torch.inference_mode():
            logits = self._model(input_ids=self._tensor(ids.tolist()), use_cache=False).logits
            logits[0, 0, 0].item()  # waits for a GPU

    def warm(self) -> None:
        """Load now what answering needs: all of it was loaded at the start."""

    def close(self) -> None:
        """Give the memory back."""
        self._model = None
        gc.collect()
        if self._device == "cuda":
            self._torch.cuda.empty_cache()

    def _tensor(self, rows: list[list[int]]) -> Any:
        return self._torch.tensor(rows, dtype=self._torch.long, device=self._device)

    def _start(self, prompt: str) -> list[int]:
        """Return the ids of a prompt; an empty one starts as a document does."""
        return self.encode(prompt) or [self.first_id()]

    def _special(self, stops: Sequence[str]) -> set[int]:
        """Return the stop texts that are one special token: decoded text does not show them."""
        ids = [self.encode(stop) for stop in stops]
        return {row[0] for row in ids if len(row) == 1 and not self.decode(row)}

    def _read_once(self, rows: list[list[int]]) -> tuple[int, Any]:
        """Run what all rows begin with, each left at least one token; return its length and its cache."""
        if len(rows) < 2:
            return 0, None
        shared = min(common_prefix(rows), min(len(row) for row in rows) - 1)
        if shared < SHORTEST_SHARED:
            return 0, None
        batch = _Batch(self._torch, self._device, [rows[0][:shared]], 0, None)
        batch.step(self._model)
        if not _is_plain(batch.cache):
            return 0, None
        return shared, batch.cache

    def _finish(
        self, batch: _Batch, most: int, stop: Sequence[str], ends: set[int], asked: Sequence[str]
    ) -> list[list[int]]:
        """Continue every row of the batch; rows that are done leave it."""
        written: list[list[int]] = [[] for _ in range(batch.size)]
        alive = list(range(batch.size))
        for number in range(most):
            logits = batch.step(self._model)
            if number == 0:  # what is broken shows here; the best token of no numbers is an answer like any other
                for prompt, highest in zip(asked, logits.amax(-1).tolist(), strict=True):
                    if not math.isfinite(highest):
                        raise not_finite(prompt, str(self._path))
            tokens = logits.argmax(-1)
            going = []
            for place, token in enumerate(tokens.tolist()):
                ids = written[alive[place]]
                if token in ends:
                    continue
                ids.append(token)
                if not (stop and has_stop(self.decode(ids), stop)):
                    going.append(place)
            if not going:
                break
            batch.take(tokens, going)
            alive = [alive[place] for place in going]
        return written


class _Batch:
    """Rows on their way through the network, padded on the left, with their attention cache.

    R: rows, S: tokens read before by all rows, T: tokens of the longest row.
    """

    def __init__(self, torch: Any, device: str, rows: list[list[int]], shared: int, cache: Any) -> None:
        longest = max(len(row) for row in rows)
        padded = [[0] * (longest - len(row)) + row for row in rows]
        mask = [[1] * shared + [0] * (longest - len(row)) + [1] * len(row) for row in rows]
        self._torch = torch
        self.size = len(rows)
        self._ids = torch.tensor(padded, dtype=torch.long, device=device)  # (R, T)
        self._mask = torch.tensor(mask, dtype=torch.long, device=device)  # (R, S + T)
        self._places = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]  # (R, T)
        self.cache: Any = None
        if cache is not None:
            self.cache = copy.deepcopy(cache)
            if self.size > 1:
                self.cache.batch_repeat_interleave(self.size)

    def step(self, model: Any) -> Any:
        """Run the tokens not read yet and return the logits of the next one (R, vocabulary), float32."""
        # Custom code may not know how to leave out the logits of the prompt.
        last_only = {"logits_to_keep": 1} if "logits_to_keep" in signature(model.forward).parameters else {}
        output = model(
            input_ids=self._ids, attention_mask=self._mask, position_ids=self._places,
            past_key_values=self.cache, use_cache=True, **last_only,
        )  # fmt: skip
        self.cache = output.past_key_values
        return output.logits[:, -1].float()

    def branch(self, model: Any, places: list[int], rows: list[list[int]]) -> Any:
        """Return the logits (B, K, vocabulary) after each token of ``rows``, padded on the right.

        B: branches, K: tokens of the longest. The batch itself stays as it was.

        Args:
            model: The network.
            places: The row of the batch that each branch goes on from.
            rows: The tokens of each branch.
        """
        torch, device = self._torch, self._mask.device
        cache = copy.deepcopy(self.cache)
        cache.batch_select_indices(torch.tensor(places, device=device))
        longest = max(len(row) for row in rows)
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)  # (B, K)
        real = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        output = model(
            input_ids=ids, attention_mask=torch.cat([self._mask[places], real], dim=-1),
            position_ids=self._places[places, -1:] + 1 + torch.arange(longest, device=device),
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        return output.logits.float()

    def take(self, tokens: Any, going: list[int]) -> None:
        """Append one token a row (R) and keep only the rows that go on."""
        if len(going) < self.size:
            self.cache.batch_select_indices(self._torch.tensor(going, device=self._mask.device))
            self._mask, self._places, tokens = self._mask[going], self._places[going], tokens[going]
            self.size = len(going)
        self._ids = tokens[:, None]
        self._mask = self._torch.cat([self._mask, self._torch.ones_like(self._ids)], dim=-1)
        self._places = self._places[:, -1:] + 1


def _is_plain(cache: Any) -> bool:
    """Say whether a cache is a plain list of keys: padding can follow them, and rows be copied and taken back.

    A sliding or recurrent layer keeps no such list.
    """
    return all(type(layer).__name__ == "DynamicLayer" for layer in getattr(cache, "layers", [None]))


class _Picker:
    """Picks the next token from logits: the best one, or drawn at a temperature from the likely ones."""

    def __init__(self, torch: Any, device: str, sampling: dict[str, Any]) -> None:
        check_sampling(sampling)
        self._torch = torch
        self._temperature = float(sampling.get("temperature") or 0.0)
        self._top_k = int(sampling.get("top_k") or 0)
        self._top_p = float(sampling.get("top_p") or 1.0)
        self._random = torch.Generator(device=device)
        if sampling.get("seed") is not None:
            self._random.manual_seed(int(sampling["seed"]))
        else:
            self._random.seed()

    def __call__(self, logits: Any) -> Any:
        """Return one token (1) from logits (1, vocabulary)."""
        if self._temperature == 0.0:
            return logits.argmax(-1)
        ranked, tokens = (logits[0] / self._temperature).sort(descending=True)
        likely = ranked.softmax(-1)
        # The token that crosses the mass still belongs to the nucleus, so at least one stays.
        likely = likely.masked_fill(likely.cumsum(-1) - likely >= self._top_p, 0.0)
        if self._top_k:
            likely[self._top_k :] = 0.0
        return tokens[self._torch.multinomial(likely, 1, generator=self._random)]


def check_sampling(sampling: dict[str, Any]) -> None:
    """Raise ``BadValue`` for a setting that is none, or outside its domain."""
    known = ("temperature", "top_p", "top_k", "seed")
    for name, value in sampling.items():
        if name not in known:
            raise BadValue(f"unknown sampling setting `{name}`", hint="it can be " + ", ".join(known))
        if value is not None and (value < 0 or (name == "top_p" and not 0 < value <= 1)):
            raise BadValue(f"`{name}` is {value}", hint="temperature and top_k from 0, top_p above 0 and up to 1")


def no_chat_template(where: str) -> Refused:
    """Return the error of a model without a chat template."""
    return Refused(
        "the model carries no chat template",
        where=where,
        hint="use an instruction-tuned model, or write the prompt out in full",
    )


def template_refuses(error: Exception, where: str) -> Refused:
    """Return the error of a chat template that does not take the messages it was given."""
    return Refused(
        f"the model's chat template does not take these messages ({first_line(error)})",
        where=where,
        hint="leave out the system message, and let user and assistant take turns",
    )


def _end_ids(network: Any, tokenizer: Any) -> set[int]:
    """Return the ids that end an answer, of the generation config and of the tokenizer."""
    named = network.generation_config.eos_token_id if network.generation_config is not None else None
    ids = named if isinstance(named, list) else [named]
    return {int(token) for token in [*ids, tokenizer.eos_token_id] if token is not None}
