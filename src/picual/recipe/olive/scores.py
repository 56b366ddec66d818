"""Olive's `accuracy`, whichever library it names, as the metrics of Picual that compare answers or read text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from picual.data.base import DataConfig, template_columns
from picual.recipe.olive.direction import is_higher_better
from picual.recipe.olive.goals import Number
from picual.recipe.olive.measured import Measured
from picual.recipe.olive.notes import Reason
from picual.recipe.olive.reader import word
from picual.recipe.olive.score_options import UNUSED, NoEqual, ScoreOptions, read_options
from picual.recipe.olive.sub_types import SubType

HUGGING_FACE = "huggingface_metrics"
_NO_CODE: Reason = ("ignored", "none of its code is called for")
_SPEECH = "it compares transcripts of speech, and Picual reads text"
_PICTURES = "it judges answers about pictures, and Picual reads text"
_WITHOUT_EQUAL = {
    "wer": _SPEECH, "cer": _SPEECH, "rtfx": _SPEECH, "relaxed_accuracy": _PICTURES, "word_sort_ratio": _PICTURES,
}  # fmt: skip
_RIGHT = ("accuracy_score", "accuracy", "exact_match", "")
_RANKED = ("auroc", "auc", "roc_auc")
# A name of torchmetrics or Hugging Face -> that of scikit-learn.
_AVERAGED = {"f1_score": "f1_score", "f1": "f1_score", "precision": "precision_score", "recall": "recall_score"}
_PLAIN = {"matthews_correlation": "matthews_corrcoef", "matthews_corrcoef": "matthews_corrcoef"}
SCORES = tuple(name for name in (*_RIGHT, *_RANKED, *_AVERAGED, *_PLAIN, *_WITHOUT_EQUAL, "perplexity") if name)
_LIKELIHOOD = {"by": "likelihood"}


@dataclass(frozen=True)
class _Equal:
    """What measures the same: a type, its fields, and the key of the number, empty for the main one."""

    type: str
    fields: dict[str, Any]
    key: str = ""


def read_scores(metric: Measured) -> None:
    """Read an accuracy: every sub type becomes a number of its own."""
    backend = metric.reader.find("backend")
    is_hugging_face = backend is not None and word(backend.value) == HUGGING_FACE
    for place, sub_type in enumerate(metric.wanted):
        try:
            equal = _equal(metric, sub_type, is_hugging_face=is_hugging_face)
        except NoEqual as error:
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


def _equal(metric: Measured, sub_type: SubType, *, is_hugging_face: bool) -> _Equal:
    asked = sub_type.name
    if asked in _WITHOUT_EQUAL:
        raise NoEqual(_WITHOUT_EQUAL[asked])
    if asked and asked not in SCORES:
        raise NoEqual(f"`{asked}` has no equal in this version")
    name, config = _text(metric)
    own = sub_type.config()
    if asked == "perplexity":
        if own is not None:
            own.drop_all(UNUSED)
        return _Equal("perplexity", {"data": name})
    fields = {"data": name, **_answers(name, config)}
    return _of(asked, fields, read_options(own, is_hugging_face=is_hugging_face), is_hugging_face=is_hugging_face)


def _of(asked: str, fields: dict[str, Any], options: ScoreOptions, *, is_hugging_face: bool) -> _Equal:
    by = _LIKELIHOOD if options.is_classifier else {}
    macro_f1 = _AVERAGED.get(asked) == "f1_score" and options.average == "macro"
    if options.best > 1:
        return _best(asked, fields, options)
    if asked in _RIGHT and options.average != "macro":
        return _Equal("accuracy", {**fields, **by})
    if macro_f1:
        return _Equal("accuracy", {**fields, **by}, key="macro_f1")
    if asked in _RANKED:
        average = options.average or "macro"
        many = {} if options.is_binary else {"options": {"multi_class": "ovr", "average": average}}
        return _Equal("sklearn", {**fields, **_LIKELIHOOD, "metric": "roc_auc_score", **many})
    if asked in _AVERAGED:
        average = options.average or ("binary" if options.is_binary or is_hugging_face else "micro")
        given = {"average": average, **({"pos_label": options.positive} if average == "binary" else {})}
        return _Equal("sklearn", {**fields, **by, "metric": _AVERAGED[asked], "options": given})
    return _Equal("sklearn", {**fields, **by, "metric": _PLAIN.get(asked, "balanced_accuracy_score")})


def _best(asked: str, fields: dict[str, Any], options: ScoreOptions) -> _Equal:
    """Return the share of rows whose expected class is among the likeliest few."""
    if asked not in _RIGHT or options.average == "macro":
        raise NoEqual(f"of the best {options.best} answers only the share of right rows is known in this version")
    given = {"k": options.best}
    return _Equal("sklearn", {**fields, **_LIKELIHOOD, "metric": "top_k_accuracy_score", "options": given})


def _text(metric: Measured) -> tuple[str, DataConfig]:
    """Return the data set of a metric, whose rows are text."""
    name = metric.data()
    config = metric.text(name)
    if name is not None and config is not None:
        return name, config
    code = metric.reader.given("dataloader_func")
    if code is not None:
        raise NoEqual(f"its rows come from `{code.value}`, code of the user's own that Picual never runs for data")
    if name is None:
        raise NoEqual("it names no data")
    if name not in metric.sets.seen:
        raise NoEqual(f"there is no data config `{name}`")
    raise NoEqual(f"`{name}` is no text: it compares what a classifier gives, and Picual asks models that write")


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
        raise NoEqual(
            f"the rows of `{name}` have no expected answer: it needs a prompt and a response, or a template that "
            "ends with the answer's column"
        )
    return {"expect": last}
