"""What a `metric_config` says of an accuracy, in the terms of torchmetrics or of Hugging Face's `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass

from picual.metrics.classification import MOST_CLASSES
from picual.recipe.olive.notes import Reason
from picual.recipe.olive.reader import Reader, flag_of, whole_number, word

_ANSWERS: Reason = ("ignored", "an answer is one class: there is no score to cut or to mask")
_CLASSES: Reason = ("mapped", "the classes are the answers that the data expects")
_ONE: Reason = ("ignored", "a row has one answer")
UNUSED: dict[str, Reason] = {
    "num_classes": _CLASSES,
    "num_labels": _CLASSES,
    "labels": _CLASSES,
    "task": _CLASSES,
    "multiclass": _CLASSES,
    "threshold": _ANSWERS,
    "thresholds": _ANSWERS,
    "ignore_index": _ANSWERS,
    "reorder": _ANSWERS,
    "validate_args": ("ignored", "a check inside Olive's library"),
    "multidim_average": _ONE,
    "mdmc_average": _ONE,
    "subset_accuracy": _ONE,
    "kwargs": ("ignored", "arguments of Olive's library"),
    "load_params": ("ignored", "Picual computes it by itself"),
    "result_key": ("mapped", "the number itself"),
    "compute_params": ("ignored", "nothing else in it changes the number here"),
}


class NoEqual(Exception):
    """Nothing measures the same; the text says why."""


@dataclass(frozen=True)
class ScoreOptions:
    """How a score is taken.

    Attributes:
        average: Over classes; empty when it is not said.
        positive: Of two classes the one that counts.
        best: How many of the likeliest classes may hold the expected one.
        is_binary: Whether there are two classes, as both libraries take it when nothing is said.
        is_classifier: Whether the number of classes is said, and small: the model chooses between them.
    """

    average: str = ""
    positive: str = "1"
    best: int = 1
    is_binary: bool = True
    is_classifier: bool = False


def read_options(own: Reader | None, *, is_hugging_face: bool) -> ScoreOptions:
    """Return the options of one sub type.

    Raises:
        NoEqual: They ask for what Picual cannot measure.
    """
    if own is None:
        return ScoreOptions()
    params = own.child("compute_params", nested=None) if is_hugging_face else own
    task = own.find("task")
    kind = "binary" if task is None else word(task.value)
    if kind == "multilabel":
        raise NoEqual("several labels a row are not supported in this version")
    normalize = None if params is None else params.find("normalize")
    if normalize is not None and flag_of(normalize.value) is False:
        raise NoEqual("it counts right answers; Picual gives their share")
    options = ScoreOptions(
        average=_average(params),
        positive=_positive(params),
        best=_best(own),
        is_binary=kind == "binary",
        is_classifier=_is_classifier(own),
    )
    own.drop_all(UNUSED)
    return options


def _average(params: Reader | None) -> str:
    found = None if params is None else params.find("average")
    if params is None or found is None:
        return ""
    average = word(found.value)
    if average in {"", "none"}:
        raise NoEqual("it gives one number a class, and no model is better by several: say `average`")
    params.drop("average", "mapped", f"the average over classes: `{average}`")
    return average


def _positive(params: Reader | None) -> str:
    given = None if params is None else params.take("pos_label", to="the positive class")
    return "1" if given is None else str(given)


def _best(own: Reader) -> int:
    found = own.given("top_k")
    number = None if found is None else whole_number(found.value)
    if found is None:
        return 1
    if number is None or number < 1:
        own.wrong_type(found, "a whole number of at least 1")
        return 1
    own.drop("top_k", "mapped", "1: the answer itself" if number == 1 else "becomes the option `k`")
    return number


def _is_classifier(own: Reader) -> bool:
    found = own.given("num_classes")
    number = None if found is None else whole_number(found.value)
    return number is not None and 2 <= number <= MOST_CLASSES
