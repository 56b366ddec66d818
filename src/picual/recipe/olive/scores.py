"""Olive's `accuracy`, whichever library it names, as the metrics of Picual that compare answers or read text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from picual.data.base import DataConfig, template_columns
from picual.recipe.olive.direction import is_higher_better
from picual.recipe.olive.goals import Number
from picual.recipe.olive.measured import Measured
from picual.recipe.olive.notes import Reason
from picual.recipe.olive.reader import Reader, whole_number, word
from picual.recipe.olive.sub_types import SubType

HUGGING_FACE = "huggingface_metrics"
_ANSWERS: Reason = ("ignored", "an answer is one class: there is no score to cut, to mask or to rank")
_CLASSES: Reason = ("mapped", "the classes are the answers that the data expects")
_UNUSED: dict[str, Reason] = {
    "num_classes": _CLASSES,
    "num_labels": _CLASSES,
    "labels": _CLASSES,
    "task": _CLASSES,
    "multiclass": _CLASSES,
    "top_k": ("mapped", "1: the answer itself"),
    "threshold": _ANSWERS,
    "ignore_index": _ANSWERS,
    "reorder": _ANSWERS,
    "validate_args": ("ignored", "a check inside Olive's library"),
    "multidim_average": ("ignored", "a row has one answer"),
    "mdmc_average": ("ignored", "a row has one answer"),
    "subset_accuracy": ("ignored", "a row has one answer"),
    "kwargs": ("ignored", "arguments of Olive's library"),
    "load_params": ("ignored", "Picual computes it by itself"),
    "result_key": ("mapped", "the number itself"),
    "compute_params": ("ignored", "nothing in it changes the number here"),
}
_WITH_SCORES = "it ranks the scores of classes, and an answer has none in this version"
_SPEECH = "it compares transcripts of speech, and Picual reads text"
_PICTURES = "it judges answers about pictures, and Picual reads text"
_WITHOUT_EQUAL = {
    "auroc": _WITH_SCORES, "auc": _WITH_SCORES, "roc_auc": _WITH_SCORES, "wer": _SPEECH, "cer": _SPEECH,
    "rtfx": _SPEECH, "relaxed_accuracy": _PICTURES, "word_sort_ratio": _PICTURES,
}  # fmt: skip
# A name of torchmetrics or Hugging Face -> that of scikit-learn.
_AVERAGED = {"f1_score": "f1_score", "f1": "f1_score", "precision": "precision_score", "recall": "recall_score"}
_PLAIN = {"matthews_correlation": "matthews_corrcoef", "matthews_corrcoef": "matthews_corrcoef"}
_NO_CODE: Reason = ("ignored", "none of its code is called for")
_RIGHT = ("accuracy_score", "accuracy", "exact_match", "")


class _NoEqual(Exception):
    """Nothing measures the same; the text says why."""


@dataclass(frozen=True)
class _Equal:
    """What measures the same: a type, its fields, and the key of the number, empty for the main one."""

    type: str
    fields: dict[str, Any]
    key: str = ""


def read_scores(metric: Measured) -> None:
    """Read an accuracy: every sub type becomes a number of its own."""
    backend = metric.reader.find("backend")
    hugging = backend is not None and word(backend.value) == HUGGING_FACE
    for place, sub_type in enumerate(metric.wanted):
        try:
            equal = _equal(metric, sub_type, hugging=hugging)
        except _NoEqual as error:
            metric.missing[place] = str(error)
            continue
        spec = metric.spec(equal.type, equal.fields, suffix=sub_type.name)
        higher = is_higher_better(sub_type.reader, metric.kind, sub_type.name, metric.name)
        metric.numbers[place] = Number(f"{spec}.{equal.key}" if equal.key else spec, higher)
        expect = equal.fields.get("expect")
        text = f"becomes `metrics.{spec}.data`"
        text += f"; the expected answer is `{expect}`, the last column of its template" if expect else ""
        metric.say("data_config", "mapped", text)
    metric.reader.drop_all(dict.fromkeys(("user_script", "script_dir"), _NO_CODE))


def _equal(metric: Measured, sub_type: SubType, *, hugging: bool) -> _Equal:
    asked = sub_type.name
    if asked in _WITHOUT_EQUAL:
        raise _NoEqual(_WITHOUT_EQUAL[asked])
    if asked not in {*_RIGHT, *_AVERAGED, *_PLAIN, "perplexity"}:
        raise _NoEqual(f"`{asked}` has no equal in this version")
    name, config = _text(metric)
    own = sub_type.config()
    if asked == "perplexity":
        if own is not None:
            own.drop_all(_UNUSED)
        return _Equal("perplexity", {"data": name})
    fields = {"data": name, **_answers(name, config)}
    options = {} if own is None else _options(own, hugging=hugging)
    by = {"by": "likelihood"} if own is not None and own.has("num_classes") else {}
    average = options.get("average", "")
    if asked in _RIGHT and average != "macro":
        return _Equal("accuracy", {**fields, **by})
    if asked in _AVERAGED and _AVERAGED[asked] == "f1_score" and average == "macro":
        return _Equal("accuracy", {**fields, **by}, key="macro_f1")
    if asked in _AVERAGED:
        return _Equal(
            "sklearn", {**fields, "metric": _AVERAGED[asked], "options": _averaged(own, options, hugging)}
        )
    return _Equal("sklearn", {**fields, "metric": _PLAIN.get(asked, "balanced_accuracy_score")})


def _text(metric: Measured) -> tuple[str, DataConfig]:
    """Return the data set of a metric, whose rows are text."""
    name = metric.data()
    config = metric.text(name)
    if name is not None and config is not None:
        return name, config
    code = metric.reader.given("dataloader_func")
    if code is not None:
        raise _NoEqual(
            f"its rows come from `{code.value}`, code of the user's own that Picual never runs for data"
        )
    if name is None:
        raise _NoEqual("it names no data")
    if name not in metric.sets.seen:
        raise _NoEqual(f"there is no data config `{name}`")
    raise _NoEqual(f"`{name}` is no text: it compares what a classifier gives, and Picual asks models that write")


def _answers(name: str, config: DataConfig) -> dict[str, str]:
    """Return what tells the expected answer: nothing where the data does, else the last column of the template."""
    if config.response or config.chat:
        return {}
    template = (config.template or "").rstrip()
    try:
        columns = template_columns(template)
    except ValueError:
        columns = []
    last = f"{{{columns[-1]}}}" if columns else ""
    if not last or not template.endswith(last) or template == last:
        raise _NoEqual(
            f"the rows of `{name}` have no expected answer: it needs a prompt and a response, or a template that "
            "ends with the answer's column"
        )
    return {"expect": last}


def _options(own: Reader, *, hugging: bool) -> dict[str, Any]:
    """Return the arguments of scikit-learn's function that a `metric_config` gives."""
    params = own.child("compute_params", nested=None) if hugging else own
    task, top = own.find("task"), own.find("top_k")
    if task is not None and word(task.value) == "multilabel":
        raise _NoEqual("several labels a row are not supported in this version")
    if top is not None and (whole_number(top.value) or 1) > 1:
        raise _NoEqual(f"the best {top.value} answers are one answer here: the best, in this version")
    normalize = None if params is None else params.find("normalize")
    if normalize is not None and normalize.value is False:
        raise _NoEqual("it counts right answers; Picual gives their share")
    own.drop_all(_UNUSED)
    found = None if params is None else params.find("average")
    if params is None or found is None:
        return {}
    if word(found.value) in {"", "none"}:
        raise _NoEqual("it gives one number a class, and no model is better by several: say `average`")
    params.drop("average", "mapped", f"the average over classes: `{word(found.value)}`")
    return {"average": word(found.value)}


def _averaged(own: Reader | None, options: dict[str, Any], hugging: bool) -> dict[str, Any]:
    """Return the arguments with the default of Olive's library: of two classes, `1` is the positive one."""
    task = None if own is None or hugging else own.find("task")
    is_binary = task is None or word(task.value) == "binary"
    if options:
        return options
    if not is_binary:
        return {"average": "micro"}
    params = own.child("compute_params", nested=None) if own is not None and hugging else None
    positive = None if params is None else params.take("pos_label", to="the positive class")
    return {"average": "binary", "pos_label": str(1 if positive is None else positive)}
