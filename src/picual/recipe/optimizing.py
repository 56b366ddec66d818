"""The recipe of ``picual optimize``: passes by target and precision, a search inside the limits, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from picual.data.base import DataConfig
from picual.data.files import rows
from picual.data.formats import TEXTS
from picual.errors import BadValue
from picual.metrics.classification import MOST_CLASSES
from picual.recipe.candidates import candidates
from picual.recipe.schema import Note
from picual.recipe.wish import Wish

LONGEST_ANSWER = 40  # characters that can be asked for word for word
SAMPLE = 500  # rows that are looked at to tell a label from a text
# Columns that by custom hold what is asked and what is answered.
PAIRS = (
    ("prompt", "response"), ("prompt", "completion"), ("prompt", "answer"), ("question", "answer"),
    ("instruction", "output"), ("instruction", "response"), ("input", "output"),
)  # fmt: skip
CHATS = ("messages", "conversations")


def recipe_for(wish: Wish) -> tuple[dict[str, Any], list[str]]:
    """Return the recipe as a mapping, and why it is so.

    Raises:
        BadValue: A limit that cannot be read, or data of which nothing says what is asked.
    """
    reasons: list[str] = []
    mapping: dict[str, Any] = {"version": 1, "model": wish.model, "target": {"device": wish.device}}
    asked: dict[str, Any] | None = None
    if wish.data:
        told, asked = ({}, None) if _is_text(wish) else _asked(wish, reasons)
        mapping["data"] = {"data": {**wish.data, **told}}
    tried = candidates(wish)
    merging = {}
    if _is_adapter(wish.model):
        reasons.append("merge-adapter: the model is an adapter, and the runtime takes plain weights")
        merging = {"merge-adapter": dict[str, Any]()}
    reasons += tried.reasons
    mapping["passes"] = {**merging, **tried.steps}
    mapping["metrics"] = dict(_metrics(wish, asked))
    reasons.append("divergence: taken on a text of ours, which nothing was calibrated on")
    mapping["search"] = _search(wish, min(wish.trials, tried.count), reasons)
    if tried.sampler is not None:
        mapping["search"]["sampler"] = tried.sampler
    return mapping, reasons


def note_of(reason: str) -> Note:
    """Return a reason as a note of the recipe: on the pass or metric it begins with, else on the search."""
    path, colon, text = reason.partition(": ")
    begins = bool(colon) and " " not in path
    return Note(path=path if begins else "search", kind="chosen", text=text if begins else reason)


def _metrics(wish: Wish, asked: Mapping[str, Any] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    if asked is not None:
        yield "accuracy", {"data": "data", "split": "all", **asked}
    elif wish.min_accuracy is not None:
        raise BadValue("an accuracy needs rows to ask", hint="--data FILE, or a limit without data: --max-kl 0.1")
    yield "divergence", {}
    yield "size", {}
    if wish.max_latency is not None or wish.aim == "speed":
        yield "latency", {}


def _search(wish: Wish, trials: int, reasons: list[str]) -> dict[str, Any]:
    bounds: dict[str, str] = {}
    if wish.max_size is not None:
        bounds["size"] = f"<= {wish.max_size}"
    if wish.max_kl is not None:
        bounds["divergence.kl"] = f"<= {wish.max_kl}"
    if wish.min_accuracy is not None:
        bounds["accuracy"] = _accuracy_bound(wish.min_accuracy)
    if wish.max_latency is not None:
        bounds["latency.ms_per_token"] = f"<= {wish.max_latency}"
    goal = {"quality": "divergence.kl", "size": "size", "speed": "latency.ms_per_token"}[wish.goal]
    reasons.append({
        "quality": "the best is the nearest to the unquantized model (KL divergence), which tells apart what"
                   " accuracy cannot",
        "size": "the best is the smallest that keeps the limits",
        "speed": "the best is the fastest a token",
    }[wish.goal])  # fmt: skip
    return {"minimize": goal, "subject_to": bounds, "trials": trials}


def _is_text(wish: Wish) -> bool:
    """Say whether the data hold nothing to ask, and nothing that has to be asked."""
    plain = all(Path(str(file)).suffix.lower() in TEXTS for file in wish.data.get("files", ("",)))
    return wish.min_accuracy is None and (bool(wish.data.get("text")) or plain)


def _accuracy_bound(text: str) -> str:
    whole = text.strip().lower()
    share = whole.removesuffix("x")
    return f">= {share} * unquantized" if share != whole else f">= {text}"


def _is_adapter(model: str | Mapping[str, Any]) -> bool:
    if isinstance(model, Mapping):
        return model.get("adapter") is not None or _is_adapter(str(model.get("uri", "")))
    return any((Path(model) / inner / "adapter_config.json").is_file() for inner in (".", "model"))


def _asked(wish: Wish, reasons: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the data lack and the metric needs to ask rows: as the data say, or as their columns suggest."""
    data = wish.data
    if data.get("response") or data.get("chat"):
        return {}, {}
    if data.get("template"):
        raise BadValue(
            "the answer's place in the template is not known", hint='--prompt "..." --response "{column}"'
        )
    found = list(islice(rows(DataConfig(files=tuple(data.get("files", ())))), SAMPLE))
    if not found:
        raise BadValue("the data have no rows", hint="--data FILE with one JSON object a line")
    columns = list(found[0])
    for column in CHATS:
        if column in columns:
            raise BadValue(f"the rows hold chats in `{column}`", hint=f"--chat {column}")
    pair = next((pair for pair in PAIRS if set(pair) <= set(columns)), None) or _text_and_label(found, columns)
    if pair is None:
        names = ", ".join(f"`{name}`" for name in columns)
        hint = f'--prompt "{{{columns[0]}}}" --response "{{{columns[-1]}}}"'
        raise BadValue(f"nothing says which of {names} is asked and which is the answer", hint=hint)
    asked, answer = pair
    told = {"prompt": f"{{{asked}}}", "response": f"{{{answer}}}"}
    answers = {str(row[answer]) for row in found if row.get(answer) is not None}
    if len(answers) > MOST_CLASSES or len(answers) < 2:
        if max(map(len, answers), default=0) > LONGEST_ANSWER:
            raise BadValue(
                f"`{answer}` holds {len(answers)} different texts, and accuracy counts answers that are word for"
                " word right", hint="leave out `--data` and give `--max-kl 0.1`: how far answers may move",
            )  # fmt: skip
        reasons.append(f"accuracy: the model writes its answer to `{asked}`, and word for word `{answer}` counts")
        return told, {"chat": _has_chat(wish.model)}
    asked_as = "a chat message" if _has_chat(wish.model) else "a prompt"
    reasons.append(f"accuracy: `{asked}` is put as {asked_as} and the likeliest `{answer}` counts; say --prompt"
                   " and --response if the model was trained on other words")  # fmt: skip
    return told, {"by": "likelihood", "chat": _has_chat(wish.model)}


def _text_and_label(found: Sequence[Mapping[str, Any]], columns: list[str]) -> tuple[str, str] | None:
    """Return the one column of many texts and the one of few that return, if there is one of each."""
    texts = [name for name in columns if all(isinstance(row.get(name), str) for row in found)]
    kinds = {name: len({row[name] for row in found}) for name in texts}
    labels = [name for name in texts if kinds[name] <= min(MOST_CLASSES, len(found) // 2)]
    others = [name for name in texts if name not in labels]
    return (others[0], labels[0]) if len(labels) == len(others) == 1 else None


def _has_chat(model: str | Mapping[str, Any]) -> bool:
    folder = Path(str(model.get("uri", "")) if isinstance(model, Mapping) else model)
    for place in (folder, folder / "model"):
        if (place / "chat_template.jinja").is_file():
            return True
        config = place / "tokenizer_config.json"
        if config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("chat_template"):
            return True
    return False
