"""The int4 base that an adapter is trained on, made on the way: as ``quantize`` rounds without data.

It lies in ``base`` beside the adapter, which makes up for its rounding, and both ship together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from picual.errors import Refused
from picual.hardware import Machine, Target
from picual.models import HfCheckpoint, HfModel, Profile, QuantizedHfModel
from picual.passes.base import Forecast, PassContext
from picual.passes.quantize.quantize import Quantize

INT4 = "int4"
FOLDER = "base"


def quantizer() -> Quantize:
    """Return the pass that makes the base."""
    return Quantize(effort="fast", bits=4)


def check_int4(model: HfCheckpoint, target: Target) -> None:
    """Refuse what cannot be quantized, and what is already: its own integers are those to train on."""
    if isinstance(model, QuantizedHfModel):
        raise Refused(
            "`base: int4` quantizes the model, and this one is quantized already",
            where=str(model.path),
            hint="leave `base` out: the adapter is trained on these integers",
        )
    assert isinstance(model, HfModel)
    quantizer().check(model, target)


def in_int4(model: HfCheckpoint, context: PassContext) -> QuantizedHfModel:
    """Write the base into ``base`` of the step's folder and return it."""
    assert isinstance(model, HfModel)  # `check_int4` saw to it
    folder, scratch = context.folder / FOLDER, context.scratch / FOLDER
    for place in (folder, scratch):
        place.mkdir(parents=True, exist_ok=True)
    return quantizer().run(model, dataclasses.replace(context, folder=folder, scratch=scratch))


def int4_profile(profile: Profile) -> Profile:
    """Return the sizes of the base."""
    return profile if profile.quantized else quantizer().profile_after(profile)


def with_int4(
    training: Forecast, profile: Profile, target: Target, machine: Machine, rows: Mapping[str, int]
) -> Forecast:
    """Return the forecast of the training with that of making its base before it."""
    made = quantizer().forecast(profile, target, machine, rows)
    return Forecast(
        memory=max(training.memory, made.memory), disk=training.disk + 2 * made.disk,
        seconds=training.seconds + made.seconds,
    )  # fmt: skip
