"""A model of ours as lm-eval's harness wants it: likelihoods and texts for its requests."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from picual.errors import Refused
from picual.models.likelihood import Likelihood
from picual.models.session import Session

CHUNK = 64  # requests between two signs of progress
MAX_NEW_TOKENS = 256  # lm-eval's own, where a task says nothing
NONE_FOLLOWS = Likelihood(0.0, greedy=True)


class _Answers:
    """What lm-eval's harness calls. Texts are split into tokens as its own models do it."""

    tokenizer_name = "picual"

    def __init__(self, session: Session, length: int, on_progress: Callable[[float, float, str], None]) -> None:
        super().__init__()
        self._session = session
        self._length = length
        self._on_progress = on_progress
        self.max_length = length
        self.eot_token_id = session.first_id()

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return (log-probability, greedy) of each continuation after its context."""
        return self._score([self._pair(*request.args) for request in requests], "requests")

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each whole text, read in windows as long as the model's context."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        totals = []
        for done, request in enumerate(requests, 1):
            windows = get_rolling_token_windows(
                token_list=self._session.encode(request.args[0]), prefix_token=self._session.first_id(),
                max_seq_len=self._length, context_len=1,
            )  # fmt: skip
            rows = [make_disjoint_window(window) for window in windows]
            totals.append(sum(one.log_probability for one in self._session.likelihoods(rows)))
            self._on_progress(done, len(requests), "texts")
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return what the model writes after each context, greedily, until a text that the task names."""
        asked: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for number, request in enumerate(requests):
            asked.setdefault(_generation(request.args[1]), []).append(number)
        answers, done = [""] * len(requests), 0
        for (stops, most), numbers in asked.items():
            for start in range(0, len(numbers), CHUNK):
                chunk = numbers[start : start + CHUNK]
                prompts = [self._shortened(requests[number].args[0], self._length - most) for number in chunk]
                found = self._session.generate(prompts, max_new_tokens=most, stop=stops)
                for number, answer in zip(chunk, found, strict=True):
                    answers[number] = answer
                done += len(chunk)
                self._on_progress(done, len(requests), "answers")
        return answers

    def apply_chat_template(
        self, chat_history: Sequence[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return messages in the model's chat template."""
        if not add_generation_prompt:
            raise Refused(
                "the task begins the assistant's answer itself, which is not supported", hint="chat: false"
            )
        return self._session.chat_prompt(chat_history)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return a name for the template: it is the model's own."""
        return ""

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if not context:
            ids, first = self._session.encode(continuation), self._session.first_id()
            return (ids[:1], ids[1:]) if ids[:1] == [first] else ([first], ids)
        blanks = len(context) - len(context.rstrip())
        whole = self._session.encode(context + continuation)
        count = len(self._session.encode(context[: len(context) - blanks]))
        return whole[:count], whole[count:]

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]], note: str) -> list[tuple[float, bool]]:
        found: list[tuple[float, bool]] = []
        for start in range(0, len(pairs), CHUNK):
            part = [self._fitted(*pair) for pair in pairs[start : start + CHUNK]]
            scores = iter(self._session.likelihoods([pair for pair in part if pair[1]]))
            for _, text in part:
                one = next(scores) if text else NONE_FOLLOWS
                found.append((one.log_probability, one.greedy))
            self._on_progress(len(found), len(pairs), note)
        return found

    def _fitted(self, prompt: list[int], text: list[int]) -> tuple[list[int], list[int]]:
        """Leave out the beginning of what is longer than the model's context."""
        surplus = len(prompt) + len(text) - 1 - self._length
        return prompt[max(min(surplus, len(prompt) - 1), 0) :], text

    def _shortened(self, prompt: str, most: int) -> str:
        ids = self._session.encode(prompt)
        return prompt if len(ids) <= most else self._session.decode(ids[-max(most, 1) :])


def _generation(given: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """Return the texts that end an answer, and its longest length.

    Raises:
        Refused: The task asks for sampled answers.
    """
    if given.get("do_sample") and float(given.get("temperature", 1.0)) > 0:
        raise Refused(
            "the task asks for sampled answers, and these are greedy", hint="do_sample: false in the task"
        )
    until = given.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    most = given.get("max_gen_toks", given.get("max_new_tokens", MAX_NEW_TOKENS))
    return tuple(stop for stop in stops if stop), int(most)


def as_harness_model(session: Session, length: int, on_progress: Callable[[float, float, str], None]) -> Any:
    """Return the session as a model of lm-eval's.

    Args:
        session: The loaded model.
        length: Of its context, in tokens.
        on_progress: Called with done, total and what is counted.
    """
    from lm_eval.api.model import LM

    return types.new_class("SessionModel", (_Answers, LM))(session, length, on_progress)
