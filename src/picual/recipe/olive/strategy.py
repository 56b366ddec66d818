"""`search_strategy`, in the form of Olive 0.8 (`sampler`) and the one before it (`search_algorithm`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from picual.errors import nearest
from picual.recipe.olive.notes import Ledger, Path_, Reason
from picual.recipe.olive.reader import Found, Reader, unquoted, word

NESTED = ("sampler_config", "search_algorithm_config")
SAMPLERS = {
    "sequential": "grid", "exhaustive": "grid", "random": "random", "tpe": "tpe", "optuna": "tpe",
}  # fmt: skip
ORDERS = ("joint", "pass-by-pass")
_OLD = ("search_algorithm", "search_algorithm_config", "num_samples")
_OLIVES_SEED = 1
_OWN: Reason = ("ignored", "a setting of Olive's sampler; ours has none like it")
UNUSED: dict[str, Reason] = {
    "output_model_num": ("ignored", "the output is the best model; the report lists every trial"),
    "multivariate": _OWN,
    "group": _OWN,
    "with_replacement": ("ignored", "no candidate is tried twice"),
}


@dataclass
class Strategy:
    """How a config asks for a search.

    Attributes:
        on: Whether it asks for one.
        found: Where.
        has_own_values: Whether parameters that are left out are searched over the values that Olive suggests.
        is_exhaustive: Whether no number of trials limits it.
        settings: Entries of the recipe's `search`, goals aside.
        where: Where they stand.
    """

    on: bool = False
    found: Found | None = None
    has_own_values: bool = True
    is_exhaustive: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    where: dict[str, Path_] = field(default_factory=dict)


def read_strategy(reader: Reader) -> Strategy:
    """Return the search that the engine asks for."""
    found, ledger = reader.find("search_strategy"), reader.ledger
    if found is None:
        return Strategy()
    if (asked := unquoted(found.value)) is True:
        ledger.mapped(found.path, "every combination is tried (`joint`, `sequential`), as Olive's manual says")
        return Strategy(on=True, found=found, is_exhaustive=True, settings={"sampler": "grid"})
    if asked is False or found.value is None or found.value == {}:
        ledger.mapped(found.path, "no search: every step runs once, with its own values")
        return Strategy()
    if not isinstance(found.value, Mapping):
        reader.wrong_type(found, "true, false or a mapping")
        return Strategy()
    return _Form(ledger, found).strategy()


class _Form:
    """A `search_strategy` that is a mapping, while it is read."""

    def __init__(self, ledger: Ledger, found: Found) -> None:
        inner = [Found((*found.path, key), found.value[key]) for key in NESTED if key in found.value]
        self.ledger = ledger
        self.reader = Reader(ledger, [*inner, found])
        self.made = Strategy(on=True, found=found)
        for one in inner:
            if not isinstance(one.value, Mapping):
                ledger.note(one.path, "ignored", "not a mapping, so nothing is in it")

    def strategy(self) -> Strategy:
        self.order()
        self.sampler()
        self.budget()
        self.seed()
        stop = self.reader.flag("stop_when_goals_met", to="search.stop_when_met")
        if stop:
            self.put("stop_when_met", True, "stop_when_goals_met")
        included = self.reader.flag("include_pass_params", to="parameters that are left out are searched too")
        if included is False:
            self.made.has_own_values = False
            text = "parameters of passes are not searched, only which pass it is"
            self.reader.drop("include_pass_params", "mapped", text, again=True)
        self.reader.drop_all(UNUSED)
        known = (*UNUSED, "execution_order", "sampler", "max_samples", "max_iter", "max_time", "seed", *_OLD)
        self.reader.unknown(known, "`search_strategy`", NESTED)
        return self.made

    def order(self) -> None:
        found = self.reader.given("execution_order")
        if found is None:
            return
        order = word(found.value).replace("_", "-")
        if order not in ORDERS:
            hint = nearest(order, ORDERS) or "it can be `joint` or `pass-by-pass`"
            self.ledger.problem(found.path, f"`{found.value}` is no order of a search", hint)
            return
        self.ledger.mapped(found.path, "search.order")
        if order != ORDERS[0]:
            self.put("order", order, "execution_order")

    def sampler(self) -> None:
        found = self.reader.given("sampler", "search_algorithm")
        if found is None:
            text = "left out: every combination is tried"
            self.ledger.note((*self.at(), "sampler"), "defaulted", text)
            self.made.settings["sampler"] = "grid"
            return
        name = word(found.value)
        if name not in SAMPLERS:
            hint = nearest(name, list(SAMPLERS)) or "it can be " + ", ".join(SAMPLERS)
            self.ledger.problem(found.path, f"there is no sampler `{found.value}`", hint)
            return
        self.ledger.mapped(found.path, f"becomes `search.sampler: {SAMPLERS[name]}`")
        self.put("sampler", SAMPLERS[name], str(found.path[-1]))

    def budget(self) -> None:
        """Take the number of trials, the smaller of the two that limit it, and the time."""
        samples = self.count("max_samples", "num_samples", to="search.trials", least=0)
        limits = {"max_iter": self.count("max_iter", to="search.trials")}
        if samples:
            limits[self.name_of("max_samples", "num_samples")] = samples
        elif samples == 0:
            self.reader.drop(self.name_of("max_samples", "num_samples"), "mapped", "0: all candidates", again=True)
        given = {name: limit for name, limit in limits.items() if limit is not None}
        if given:
            least = min(given, key=lambda name: given[name])
            self.put("trials", given[least], least)
            for name in given:
                if name != least:
                    self.reader.drop(name, "mapped", f"`{least}` is the smaller limit of trials", again=True)
        is_random = self.made.settings.get("sampler") in {"random", "tpe"}
        self.made.is_exhaustive = not samples and not (is_random and samples is None and self.is_old())
        if is_random and samples is None and self.is_old() and "max_iter" not in given:
            text = "left out: as many as a search here tries by itself (Olive: 1)"
            self.ledger.note((*self.at(), "num_samples"), "defaulted", text)
        seconds = self.count("max_time", to="search.timeout")
        if seconds is not None:
            self.put("timeout", seconds, "max_time")

    def seed(self) -> None:
        seed = self.reader.whole("seed", to="search.seed")
        if seed is not None:
            self.put("seed", seed, "seed")
        elif self.made.settings.get("sampler") in {"random", "tpe"}:
            self.made.settings["seed"] = _OLIVES_SEED
            self.ledger.note((*self.at(), "seed"), "defaulted", f"left out: {_OLIVES_SEED}, as Olive does")

    def count(self, *names: str, to: str, least: int = 1) -> int | None:
        number = self.reader.whole(*names, to=to)
        found = self.reader.find(*names)
        if number is None or found is None or number >= least:
            return number
        what = f"`{found.path[-1]}` is {number}; it must be at least {least}"
        self.ledger.problem(found.path, what, f"leave out `{found.path[-1]}`")
        return None

    def name_of(self, *names: str) -> str:
        found = self.reader.find(*names)
        return names[0] if found is None else str(found.path[-1])

    def is_old(self) -> bool:
        return self.reader.has(*_OLD)

    def at(self) -> Path_:
        """Return where a key that was left out would stand."""
        assert self.made.found is not None
        return self.made.found.path

    def put(self, key: str, value: Any, olive: str) -> None:
        self.made.settings[key] = value
        if (found := self.reader.find(olive)) is not None:
            self.made.where[f"search.{key}"] = found.path
