"""How a run ended, in sentences: the first thing a reader sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from picual import errors
from picual.report.constraints import Constraint, constraints_of
from picual.report.numbers import compact, goals, measures_in
from picual.report.reading import mapping, mappings

VERIFIED = "verified"
# One sentence for each branch of the error tree, the narrower first.
BRANCHES: dict[type[errors.PicualError], str] = {
    errors.NotRegistered: "The model is verified, but not registered",
    errors.NotMeasured: "The model is verified, but not everything was measured",
    errors.RecipeError: "The recipe is wrong",
    errors.EnvironmentFault: "This machine lacks something",
    errors.StepFailed: "A step did not finish",
    errors.StoreError: "The store could not be used",
    errors.NothingFits: "No candidate meets the limits",
    errors.NotVerified: "The model did not pass verification",
    errors.Interrupted: "The run was interrupted",
}
MOST_SENTENCES = 4


@dataclass(frozen=True)
class Verdict:
    """The headline, what stands below it, the main numbers in sentences, and whether it is good news."""

    good: bool
    headline: str
    sentences: tuple[str, ...]
    numbers: tuple[str, ...] = ()
    hint: str = ""


def verdict_of(report: Mapping[str, Any]) -> Verdict:
    """Return how a run ended."""
    if report.get("verdict") == VERIFIED:
        made = _made(report)
        sentences = (*_chosen(report), *_registered(report))
        return Verdict(good=True, headline=made, sentences=sentences, numbers=tuple(_against(report)))
    error = mapping(report.get("error"))
    what = str(error.get("what", ""))
    where = f"It happened at {error['where']}." if error.get("where") else ""
    if report.get("search") and report.get("verdict") == errors.NothingFits.__name__:
        what = where = ""  # told better below, from the search itself
    sentences = (
        what and what[:1].upper() + what[1:].rstrip(".") + ".",
        where,
        *_nearest(report),
        *_chosen(report),
    )
    return Verdict(
        good=False,
        headline=branch(str(report.get("verdict"))),
        sentences=tuple(sentence for sentence in sentences if sentence),
        hint=str(error.get("hint", "")),
    )


def branch(name: str) -> str:
    """Return the sentence of an error class by its name."""
    for kind, sentence in BRANCHES.items():
        pending: list[type[errors.PicualError]] = [kind]
        while pending:
            one = pending.pop()
            if one.__name__ == name:
                return sentence
            pending += one.__subclasses__()
    return f"The run stopped: {name}"


def _made(report: Mapping[str, Any]) -> str:
    """Return the headline of a good end: what was made, and its size."""
    best = mapping(report.get("best"))
    size = next((measure for measure in measures_in(report, [best]) if measure.key == "size_mb"), None)
    if size is None:
        return "Verified: a model"
    value, before = size.of(best), size.of(mapping(report.get("baseline")))
    made = f"Verified: a model of {size.text(value)}"
    if value is None or before is None or before <= 0 or abs(value - before) < 5e-3 * before:
        return made
    share = 100 * abs(value - before) / before
    return f"{made}, {share:.0f} % {'smaller' if value < before else 'larger'} than the baseline"


def _against(report: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each main number of the model: its value, and how it stands to the others."""
    best = mapping(report.get("best"))
    asked = goals(report)
    measures = [
        measure
        for measure in measures_in(report, [best])
        if measure.is_main or (measure.metric, measure.key) in asked
    ]
    measures.sort(key=lambda measure: (measure.metric, measure.key) not in asked)
    sentences = []
    for measure in measures[:MOST_SENTENCES]:
        value = measure.of(best)
        told = []
        for stage, words in (("baseline", "the baseline"), ("unquantized", "the unquantized model")):
            reference = measure.of(mapping(report.get(stage)))
            if reference is not None:
                told.append(_relation(measure.difference(value, reference), words))
        interval = measure.interval_text(measure.interval(best))
        shown = measure.text(value) + (f" (95 % interval {interval})" if interval else "")
        sentences.append(f"{_capital(measure.label)} is {shown}" + (f": {', '.join(told)}." if told else "."))
    return sentences


def _relation(difference: str, words: str) -> str:
    if difference == "same":
        return f"the same as {words}"
    if difference.endswith("times"):
        return f"{difference} that of {words}"
    return f"{difference} against {words}"


def _chosen(report: Mapping[str, Any]) -> list[str]:
    """Return what a search looked at, and what it chose."""
    search = mapping(report.get("search"))
    if not search:
        return []
    asked, dropped, failed = (int(search.get(key) or 0) for key in ("asked", "dropped", "failed"))
    space = search.get("candidates")
    of = f" of {space}" if isinstance(space, int) else ""
    fate = [f"{dropped} dropped early" if dropped else "", f"{failed} failed" if failed else ""]
    sentences = ["; ".join([f"{asked}{of} candidates were tried", *(part for part in fate if part)]) + "."]
    number = search.get("best")
    trial = next((trial for trial in mappings(report.get("trials")) if trial.get("number") == number), None)
    if number is not None and trial is not None:
        sentences.append(f"Trial {number} won: {settings_text(mapping(trial.get('candidate')))}.")
    tied = [one for one in search.get("tied") or [] if one != number]
    if tied:
        names = ", ".join(str(one) for one in tied)
        sentences.append(f"Within the noise it is tied with {'trial' if len(tied) == 1 else 'trials'} {names}.")
    return sentences


def _registered(report: Mapping[str, Any]) -> list[str]:
    """Return which version of which model the result became."""
    found = mapping(report.get("registered"))
    if not found:
        return []
    how = "It is registered as" if found.get("new") else "It was registered already, as"
    return [f"{how} `{found.get('name')}:{found.get('version')}`, at `{found.get('address')}`."]


def _nearest(report: Mapping[str, Any]) -> list[str]:
    """Return the closest candidate of a search in which nothing fits, and what each limit lacks."""
    closest = mapping(report.get("search")).get("closest")
    if report.get("verdict") != errors.NothingFits.__name__:
        return []
    trial = next((one for one in mappings(report.get("trials")) if one.get("number") == closest), None)
    told = f"Trial {closest} comes closest: {settings_text(mapping(trial.get('candidate')))}." if trial else ""
    return [told, *(shortfall(constraint) for constraint in constraints_of(report) if not constraint.met)]


def shortfall(constraint: Constraint) -> str:
    """Return how far a candidate is from one limit."""
    name = _capital(constraint.measure.label)
    if constraint.value is None:
        return f"{name} was not measured; the limit is `{constraint.bound}`."
    value = constraint.measure.text(constraint.value)
    if constraint.gap is None:
        return f"{name} is {value}; the limit is `{constraint.bound}`."
    return f"{name} is {value}; the limit `{constraint.bound}` would have to move by {constraint.gap_text}."


def settings_text(candidate: Mapping[str, Any]) -> str:
    """Return a candidate as a list of settings."""
    return ", ".join(f"{name} {compact(value)}" for name, value in candidate.items()) or "the recipe as it is"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
