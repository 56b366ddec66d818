"""The ``search:`` of a recipe as a value: goals, sampler and limits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from picual.errors import BadValue, nearest
from picual.search.goals import EXAMPLE, Bound, Measurement, Objective

KEYS = (
    "minimize", "maximize", "objectives", "subject_to", "sampler", "trials", "timeout", "stop_when_met", "order",
    "seed", "parallel",
)  # fmt: skip
DEFAULT_TRIALS = 20
Finding = tuple[str, str, str]  # key under `search`, sentence, hint
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?")
_SECONDS = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a search is after and how long it may take.

    Attributes:
        objectives: In order of priority.
        bounds: That a candidate must keep.
        sampler: Name of the sampler; ``auto`` chooses by the space.
        trials: At most so many.
        timeout: Seconds after which no new trial begins.
        stop_when_met: End at the first candidate that keeps all bounds.
        pass_by_pass: The parameters of one step after the other, the best of the steps before kept; else all at
            once.
        seed: Of the sampler; None: the recipe's.
        parallel: Trials at a time; None: as many as fit.
    """

    objectives: tuple[Objective, ...] = ()
    bounds: tuple[Bound, ...] = ()
    sampler: str = "auto"
    trials: int = DEFAULT_TRIALS
    timeout: float | None = None
    stop_when_met: bool = False
    pass_by_pass: bool = False
    seed: int | None = None
    parallel: int | None = None

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """Every number that the goals ask for, each once."""
        asked = [bound.measurement for bound in self.bounds] + [one.measurement for one in self.objectives]
        return tuple(dict.fromkeys(asked))


def read(given: Mapping[str, Any], samplers: tuple[str, ...]) -> tuple[Settings, list[Finding]]:
    """Read the section; every mistake is in the list, and what is wrong keeps its default."""
    reader = _Reader(given, samplers)
    return reader.settings(), reader.findings


class _Reader:
    def __init__(self, given: Mapping[str, Any], samplers: tuple[str, ...]) -> None:
        self.given, self.samplers = given, samplers
        self.findings: list[Finding] = []

    def settings(self) -> Settings:
        for key in self.given:
            if key not in KEYS:
                self.wrong(key, f"unknown key `{key}` in `search`", nearest(key, KEYS))
        return Settings(
            objectives=tuple(self.objectives()),
            bounds=tuple(self.bounds()),
            sampler=self.choice("sampler", ("auto", *self.samplers), "auto"),
            trials=self.count("trials") or DEFAULT_TRIALS,
            timeout=self.duration(),
            stop_when_met=self.switch("stop_when_met"),
            pass_by_pass=self.choice("order", ("joint", "pass-by-pass"), "joint") == "pass-by-pass",
            seed=self.seed(),
            parallel=self.count("parallel"),
        )

    def objectives(self) -> Iterator[Objective]:
        listed = self.given.get("objectives", [])
        if not isinstance(listed, list) or not all(isinstance(one, Mapping) and len(one) == 1 for one in listed):
            self.wrong("objectives", "`objectives` must be a list", "`objectives: [{maximize: accuracy}]`")
            listed = []
        pairs = [(key, self.given[key]) for key in self.given if key in {"minimize", "maximize"}]
        for direction, names in pairs + [next(iter(one.items())) for one in listed]:
            if direction not in {"minimize", "maximize"}:
                self.wrong("objectives", f"`{direction}` is no direction", "`minimize` or `maximize`")
                continue
            for name in names if isinstance(names, list) else [names]:
                if isinstance(name, str) and name:
                    yield Objective(Measurement.read(name), direction)
                else:
                    self.wrong(direction, f"`{direction}` must name a metric", f"`{direction}: perplexity`")

    def bounds(self) -> Iterator[Bound]:
        given = self.given.get("subject_to") or {}
        if not isinstance(given, Mapping):
            self.wrong("subject_to", "`subject_to` must be a mapping of metrics to bounds", EXAMPLE)
            return
        for name, texts in given.items():
            for text in texts if isinstance(texts, list) else [texts]:
                try:
                    yield Bound.read(Measurement.read(str(name)), str(text))
                except BadValue as error:
                    self.wrong("subject_to", f"`{name}`: {error.what}", error.hint)

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.given.get(key, default)
        if value in choices:
            return str(value)
        hint = nearest(str(value), choices) or ", ".join(choices)
        self.wrong(key, f"`{key}` is `{value}`; it must be one of {', '.join(choices)}", hint)
        return default

    def switch(self, key: str) -> bool:
        value = self.given.get(key, False)
        if isinstance(value, bool):
            return value
        self.wrong(key, f"`{key}` is `{value}`; it must be true or false", f"`{key}: true`")
        return False

    def count(self, key: str) -> int | None:
        value = self.given.get(key)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
        self.wrong(key, f"`{key}` is {value}; it must be a whole number of at least 1", f"leave out `{key}`")
        return None

    def seed(self) -> int | None:
        value = self.given.get("seed")
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        self.wrong("seed", f"`seed` is {value}; it must be a whole number", "leave out `seed`")
        return None

    def duration(self) -> float | None:
        value = self.given.get("timeout")
        if value is None:
            return None
        found = _DURATION.fullmatch(str(value).strip())
        if found is None or isinstance(value, bool) or float(found[1]) <= 0:
            self.wrong("timeout", f"`timeout` is {value}; it must be a time", "`timeout: 2h`, or seconds")
            return None
        return float(found[1]) * _SECONDS[found[2]]

    def wrong(self, key: str, what: str, hint: str) -> None:
        self.findings.append((key, what, hint))
