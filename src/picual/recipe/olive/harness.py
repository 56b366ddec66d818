"""Olive's LMEvaluator as the metric `lm-eval`: the same harness, the same tasks."""

from __future__ import annotations

from typing import Any

from picual.recipe.olive.context import Context
from picual.recipe.olive.notes import Reason
from picual.recipe.olive.reader import Found, Reader, number_of
from picual.recipe.schema import MetricSpec

SIZE_TASK = "size_on_disk"
_PROVIDER: Reason = ("ignored", "the target names the provider")
_PROMPT: Reason = ("later", "prompts of a task cannot be changed in this version: its own file says them")
UNUSED: dict[str, Reason] = {
    "batch_size": ("ignored", "how many questions are asked at a time makes no difference to the score"),
    "max_length": ("ignored", "the model's own context is the limit"),
    "model_class": ("mapped", "the kind of model says how it is run"),
    "model_args": ("ignored", "the model is the one of the recipe"),
    "bootstrap_iters": ("ignored", "intervals come with every score"),
    "execution_provider": _PROVIDER,
    "provider_options": _PROVIDER,
    "device": _PROVIDER,
    "sample_log_num": ("ignored", "the report holds examples of what the model answered"),
    "sample_log_dir": ("ignored", "the report holds examples of what the model answered"),
    "system_instruction": _PROMPT,
    "fewshot_as_multiturn": _PROMPT,
}


def read_harness(context: Context, reader: Reader, found: Found) -> list[MetricSpec]:
    """Return the metrics that an LMEvaluator becomes; its scores are no goals, in Olive as here."""
    tasks = reader.texts("tasks", to="metrics.lm-eval.tasks")
    place = context.ledger.place(found.path)
    if not tasks:
        if reader.given("tasks") is None:
            context.ledger.problem(found.path, "an LMEvaluator needs `tasks`", '`"tasks": ["hellaswag"]`')
        return []
    fields: dict[str, Any] = {"tasks": [task for task in tasks if task != SIZE_TASK]}
    limit = reader.given("limit")
    share = None if limit is None else number_of(limit.value)
    if limit is not None and share is not None and not share.is_integer():
        text = "a share of the questions cannot be asked in this version: give their number"
        context.ledger.note(limit.path, "later", text)
    elif (count := reader.whole("limit", to="metrics.lm-eval.limit")) is not None:
        fields["limit"] = count
    shots = reader.whole("num_fewshot", to="metrics.lm-eval.shots")
    if shots is not None:
        fields["shots"] = shots
    if reader.flag("apply_chat_template", to="metrics.lm-eval.chat"):
        fields["chat"] = True
    reader.drop_all(UNUSED)
    specs = [MetricSpec(name="lm-eval", type="lm-eval", fields=fields, place=place)] if fields["tasks"] else []
    if SIZE_TASK in tasks:
        specs.append(MetricSpec(name="size", type="size", place=place))
    return specs
