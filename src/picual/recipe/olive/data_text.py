"""How rows become text, and texts sequences: the two forms of Olive's text-generation pre-processing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from picual.data.base import template_columns
from picual.errors import nearest
from picual.recipe.olive.context import Context
from picual.recipe.olive.data_names import STRATEGIES
from picual.recipe.olive.notes import Path_
from picual.recipe.olive.reader import Found, Reader, unquoted, word

_NEVER_RUN = "code of the user's own is never run: give a `template` instead"
# The prompt that Stanford's Alpaca fixed for rows of instruction, input and output.
_ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response: "
)
_PAIRS = {
    "default": ("{input}", "{output}"),
    "self_instruct": ("{prompt}", "{completion}"),
    "alpaca": (_ALPACA, "{output}"),
}
_PLAIN_FIELDS = {
    "pad_to_max_len": "pad",
    "use_attention_mask": "attention_mask",
    "drop_short_sequences": "drop_short",
}


@dataclass
class DatasetForm:
    """One data set while it is read.

    Attributes:
        reader: Of everything that is said about it.
        name: In the recipe.
        hugging: Whether its container is Olive's own for rows of text.
        old: Whether it is written in the form of Olive 0.5 and 0.6, whose defaults differ.
        values: Fields of the data set so far.
        where: Where they stand.
    """

    reader: Reader
    name: str
    hugging: bool = False
    old: bool = False
    values: dict[str, Any] = field(default_factory=dict)
    where: dict[str, Path_] = field(default_factory=dict)

    def put(self, key: str, value: Any, found: Found | None) -> None:
        """Set a field, and where it stands if it does."""
        self.values[key] = value
        if found is not None:
            self.where[key] = found.path

    def path(self, key: str) -> Path_:
        """Return where a key that was left out would stand."""
        return (*(self.reader.layers[0].path if self.reader.layers else ()), key)

    def to(self, key: str) -> str:
        """Return the path of a field in the recipe."""
        return f"data.{self.name}.{key}"

    def defaulted(self, key: str, olive: str, value: Any, text: str) -> None:
        """Set a field that the config leaves out, to what Olive takes for it."""
        self.values[key] = value
        self.reader.ledger.note(self.path(olive), "defaulted", text)

    def flag(self, olive: str, key: str) -> None:
        """Take a field that is true or false."""
        if (value := self.reader.flag(olive, to=self.to(key))) is not None:
            self.put(key, value, self.reader.find(olive))

    def number(self, olive: tuple[str, ...], key: str) -> int | None:
        """Take a field that is a whole number."""
        value = self.reader.whole(*olive, to=self.to(key))
        if value is not None:
            self.put(key, value, self.reader.find(*olive))
        return value

    def words(self, olive: str, key: str) -> None:
        """Take a field that is text."""
        if (value := self.reader.text(olive, to=self.to(key))) is not None:
            self.put(key, value, self.reader.find(olive))


def read_text(context: Context, form: DatasetForm) -> None:
    """Read how rows become text and texts become sequences."""
    if not _is_text(form):
        form.number(("max_length",), "max_length")
        form.number(("max_samples",), "max_samples")
        _padding(form)
        return
    if _is_pair(form):
        _pair(form)
    else:
        _text(form)
        _strategy(form)
        form.number(("source_max_len", "max_seq_len", "max_length"), "max_length")
    for olive, key in _PLAIN_FIELDS.items():
        form.flag(olive, key)
    _padding(form)
    if "pad" not in form.values:
        text = "left out: to the longest sequence of a batch, which trains the same (Olive: to the full length)"
        context.ledger.note(form.path("pad_to_max_len"), "defaulted", text)
    form.number(("max_samples",), "max_samples")
    form.number(("stride",), "stride")
    form.number(("random_seed",), "seed")
    _special_tokens(form)
    side = form.reader.given("padding_side")
    if side is not None:
        text = "padding is on the right" if word(side.value) == "right" else "Picual pads on the right in training"
        context.ledger.note(side.path, "mapped" if word(side.value) == "right" else "ignored", text)


_TEXT_KEYS = (
    "dataset_type", "text_cols", "text_template", "text_formatting_func", "corpus_strategy", "strategy",
    "source_max_len", "max_seq_len", "chat_template", "message_col", "pair_format", "target_max_len", "joiner",
)  # fmt: skip


# A data set with one of these is for a classifier, or for sounds and images.
_OTHER_KEYS = (
    "input_cols", "label_col", "label_cols", "audio_col", "image_col", "question_col", "padding",
    "is_split_into_words",
)  # fmt: skip


def _is_text(form: DatasetForm) -> bool:
    keys = {key for layer in form.reader.layers for key in layer.value}
    return not keys.isdisjoint(_TEXT_KEYS) or (form.hugging and keys.isdisjoint(_OTHER_KEYS))


def _padding(form: DatasetForm) -> None:
    found = form.reader.given("padding")
    if found is None:
        return
    if word(found.value) == "max_length":
        form.put("pad", True, found)
        form.reader.ledger.mapped(found.path, form.to("pad"))
    else:
        form.reader.ledger.mapped(found.path, "sequences are padded to the longest of their batch")


def _special_tokens(form: DatasetForm) -> None:
    """Take `add_special_tokens` and `joiner`: what stands between two rows that are joined."""
    ledger = form.reader.ledger
    given = form.reader.flag("add_special_tokens", to=form.to("add_special_tokens"))
    if given is not None:
        form.put("add_special_tokens", given, form.reader.find("add_special_tokens"))
    else:
        text = "left out: true, as Olive does: BOS before every text and EOS after it"
        form.defaulted("add_special_tokens", "add_special_tokens", True, text)
    found = form.reader.find("joiner")
    if found is not None and isinstance(found.value, str):
        ledger.mapped(found.path, form.to("joiner"))
        form.put("joiner", found.value, found)
    elif found is not None and found.value is not None:
        form.reader.wrong_type(found, "text")
    elif str(form.values.get("strategy", "")).startswith("join"):
        if found is not None:
            ledger.mapped(found.path, form.to("joiner"))
        joiner = "" if form.old or found is not None else "\n\n"
        if given is not False or joiner:
            between = "nothing" if not joiner else "an empty line"
            form.defaulted("joiner", "joiner", joiner, f"left out: {between} between the rows, as Olive does")


def _text(form: DatasetForm) -> None:
    """Take the template of a row, or the columns it is made of."""
    reader = form.reader
    columns = reader.texts("text_cols", to=form.to("text"))
    if (function := reader.given("text_formatting_func")) is not None:
        reader.ledger.note(function.path, "later", _NEVER_RUN)
    if _chat(form):
        return
    form.words("text_template", "template")
    found = reader.find("text_cols")
    if "template" in form.values:
        if found is not None and columns is not None:
            named = _columns_of(form.values["template"])
            text = (
                "the columns of the template" if set(columns) <= set(named) else "the template says which columns"
            )
            reader.ledger.note(found.path, "mapped", text)
    elif columns and len(columns) > 1:
        form.put("template", " ".join(f"{{{column}}}" for column in columns), found)
        assert found is not None
        reader.ledger.note(found.path, "mapped", f"becomes `{form.to('template')}`: the columns, a blank between")
    elif columns:
        form.put("text", columns[0], found)
    elif function is None:
        form.defaulted("text", "text_cols", "text", "left out: the column `text`, as Olive does")


def _columns_of(template: str) -> list[str]:
    try:
        return template_columns(template)
    except ValueError:
        return []  # a brace that does not fit: the check of the recipe says so


def _chat(form: DatasetForm) -> bool:
    """Take a column of messages; say whether there is one."""
    reader = form.reader
    template = reader.given("chat_template")
    if template is None or (asked := unquoted(template.value)) is False:
        if template is not None:
            reader.ledger.mapped(template.path, "no chat template is used")
        reader.drop("message_col", "ignored", "no chat template is asked for")
        return False
    text = f"becomes `{form.to('chat')}`"
    if isinstance(template.value, str):
        text += "; the template is the one of the model, not the one given here"
    reader.ledger.note(template.path, "mapped" if asked is True else "replaced", text)
    form.put("chat", reader.text("message_col", to=form.to("chat")) or "messages", template)
    for key in ("text_cols", "text_template"):
        reader.drop(key, "ignored", "the chat template makes the text of a row", again=True)
    return True


def _strategy(form: DatasetForm) -> None:
    """Take how texts become sequences; the default changed between the two forms."""
    reader = form.reader
    found = reader.given("corpus_strategy", "strategy")
    kind = reader.find("dataset_type")
    if kind is not None:
        reader.ledger.mapped(kind.path, "a corpus: every row is one text")
    if found is None:
        value = "line-by-line" if form.old else "join"
        form.defaulted("strategy", "strategy", value, f"left out: `{value}`, as Olive does")
        return
    value = word(found.value).replace("_", "-")
    if value in STRATEGIES:
        reader.ledger.mapped(found.path, form.to("strategy"))
        form.put("strategy", value, found)
        return
    hint = nearest(str(found.value), STRATEGIES) or "it can be " + ", ".join(STRATEGIES)
    reader.ledger.problem(found.path, f"`{found.value}` is no strategy", hint)


def _is_pair(form: DatasetForm) -> bool:
    found = form.reader.find("dataset_type")
    return found is not None and word(found.value) == "pair"


def _pair(form: DatasetForm) -> None:
    """Take a prompt and a response, whose prompt is left out of the loss."""
    reader, ledger = form.reader, form.reader.ledger
    kind = reader.find("dataset_type")
    assert kind is not None
    ledger.mapped(kind.path, f"becomes `{form.to('prompt')}` and `{form.to('response')}`")
    found = reader.given("pair_format")
    name = "default" if found is None else word(found.value)
    if name in _PAIRS:
        form.put("prompt", _PAIRS[name][0], found)
        form.put("response", _PAIRS[name][1], found)
    if found is not None:
        _pair_note(form, found, name)
    if name == "custom":
        _custom_sides(form)
    if (mask := reader.flag("ignore_source_in_labels", to=form.to("mask_prompt"))) is not None:
        form.put("mask_prompt", mask, reader.find("ignore_source_in_labels"))
    source = form.number(("source_max_len",), "prompt_max_length")
    target = reader.whole("target_max_len", to=form.to("max_length"))
    if target is not None:
        form.put("max_length", target + (source or 0), reader.find("target_max_len"))


def _pair_note(form: DatasetForm, found: Found, name: str) -> None:
    ledger = form.reader.ledger
    to = f"becomes `{form.to('prompt')}` and `{form.to('response')}`"
    if name == "alpaca":
        ledger.note(found.path, "mapped", f"{to}; a row without `input` keeps its empty heading")
    elif name in _PAIRS or name == "custom":
        ledger.note(found.path, "mapped", to)
    elif name == "chip2":
        text = (
            "rows that hold both sides of a talk in one text are not supported in this version: give two columns"
        )
        ledger.note(found.path, "later", text)
    else:
        ledger.problem(
            found.path, f"`{found.value}` is no pair format", nearest(name, [*_PAIRS, "chip2", "custom"])
        )


def _custom_sides(form: DatasetForm) -> None:
    """Take the two sides of a pair of the user's own columns or templates."""
    for side, key in (("input", "prompt"), ("output", "response")):
        if (function := form.reader.given(f"{side}_formatting_func")) is not None:
            form.reader.ledger.note(function.path, "later", _NEVER_RUN)
        form.words(f"{side}_template", key)
        column = form.reader.text(f"{side}_col", to=form.to(key))
        if column is not None and key not in form.values:
            form.put(key, f"{{{column}}}", form.reader.find(f"{side}_col"))
