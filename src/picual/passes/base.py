"""The contract every pass keeps, what it may use while it runs, and what it promises about its result.

A pass is a frozen value: its fields are its configuration, its printout, its wire form and its cache
identity. Each field is declared once, with ``picual.space.param``; the command line, the reference page, the
JSON Schema and the search space are derived from it.

It keeps seven promises, checked by ``picual.testing.PassContract``:

1. The input model is not touched.
2. It writes only under ``context.folder`` (and its checkpoints under ``context.scratch``).
3. Same input, fields, seed, threads and library versions give the same bytes on the same class of machine.
4. ``check`` refuses with a reason and writes nothing.
5. It says what it did: ``context.changed`` and ``context.skipped``.
6. It states its post-conditions (``promises``); the engine verifies them, not the pass.
7. Long work checkpoints: a kill loses at most one layer, shard or save interval.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin

from picual.data.base import DataConfig
from picual.hardware import Machine, Target
from picual.models import Model, Profile
from picual.space import Settings

In = TypeVar("In", bound=Model)
Out = TypeVar("Out", bound=Model)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a step will need at its peak, before it runs."""

    memory: int  # bytes of anonymous memory, whole process
    disk: int  # bytes written
    seconds: float  # rough


@dataclass(frozen=True, kw_only=True)
class Promise:
    """One post-condition. The engine has a check for each class of promise; see ``engine.verification``."""

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"promise": type(self).__name__, **dataclasses.asdict(self)}


@dataclass(frozen=True, kw_only=True)
class AdapterTrained(Promise):
    """Every targeted module has an adapter whose update is finite and not zero."""

    modules: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AdapterMerged(Promise):
    """Every adapted weight moved by the adapter's own delta, recomputed in fp64; every other is unchanged.

    And the merged network answers as the base does with its adapter live.
    """

    base: str = "as-trained"  # or original: whether what moved is what 4 bits left of a weight, or the weight

    weights: tuple[float, ...] = ()  # how often the update of each adapter counts; none: once


@dataclass(frozen=True, kw_only=True)
class NetworkTrained(Promise):
    """The same tensors, of the same shapes and types, finite and some of them moved; what was tied still is."""


@dataclass(frozen=True, kw_only=True)
class NetworkRotated(Promise):
    """The network's logits are the given one's; what was to turn has turned, every other tensor is unchanged."""

    values: bool  # of each attention head
    residual: bool  # the stream between layers


@dataclass(frozen=True, kw_only=True)
class WeightsQuantized(Promise):
    """Every linear weight is there as integers, read back close to its source; every other tensor is unchanged."""

    nearest: bool  # whether no weight may have moved by more than half a step


@dataclass(frozen=True, kw_only=True)
class WeightsScaled(Promise):
    """As ``WeightsQuantized``, but for scales of single inputs, which what writes these inputs undoes."""


@dataclass(frozen=True, kw_only=True)
class IntegersKept(Promise):
    """Every quantized weight, decoded from another format, has its source's integers, scales and zero points."""

    format: str  # compressed-tensors | gptq


@dataclass(frozen=True, kw_only=True)
class MlflowFolderWritten(Promise):
    """Every tensor and the config are the given ones; ``MLmodel`` points at them, and at the same tokenizer."""


@dataclass(frozen=True, kw_only=True)
class WeightsExported(Promise):
    """Every linear of the exported file, read back, is its source's weight at the asked width."""

    precision: str  # fp32 | fp16 | int8 | int4
    block: int
    symmetric: bool
    head: str  # float | int8 | int4
    adapters: Mapping[str, str] = field(default_factory=Settings)  # beside it: folders by name; "": the given one


@dataclass(frozen=True, kw_only=True)
class RuntimeAgrees(Promise):
    """The runtime's logits agree with torch on the dequantized weights, with each adapter beside them."""

    precision: str
    adapters: Mapping[str, str] = field(default_factory=Settings)  # as above


@dataclass(frozen=True, kw_only=True)
class PromptContractKept(Promise):
    """Same token ids for the same chat, same special tokens and EOS; the runtime loads and generates."""


@dataclass
class PassContext:
    """What a pass may touch beside its input model.

    Attributes:
        folder: Empty folder for the result.
        scratch: Folder that outlives a kill of this very step; checkpoints go here.
        prepared: What ``prepare`` wrote, to read only; None: nothing was prepared.
        target: What the model is made for.
        data: The data sets the recipe defines, by name.
        seed: For every random choice.
        threads: For every thread pool.
        journal: What was changed and what was skipped, with reasons.
        metrics: Numbers worth keeping (``train_loss``, ``size_mb``).
        on_progress: Called with (done, total, note).
        on_event: Called with a name and JSON values: one line in ``events.jsonl``.
    """

    folder: Path
    scratch: Path
    prepared: Path | None = None
    target: Target = field(default_factory=Target)
    data: Mapping[str, DataConfig] = field(default_factory=dict)
    seed: int = 0
    threads: int = 1
    journal: list[dict[str, str]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    on_progress: Callable[[float, float, str], None] = lambda _done, _total, _note: None
    on_event: Callable[[str, Mapping[str, Any]], None] = lambda _name, _values: None

    def changed(self, site: str, how: str = "") -> None:
        """Record one edit."""
        self.journal.append({"changed": site, "how": how})

    def skipped(self, site: str, why: str) -> None:
        """Record one thing left alone, and why."""
        self.journal.append({"skipped": site, "why": why})

    def noted(self, what: str) -> None:
        """Record a fact the user should know: an argument not honoured, a default that mattered."""
        self.journal.append({"note": what})

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Say how far the work is."""
        self.on_progress(done, total, note)

    def event(self, name: str, **values: Any) -> None:
        """Write one line to the run's events."""
        self.on_event(name, values)


class Pass(abc.ABC, Generic[In, Out]):
    """One step from a model to a model. See the module's page for its seven promises."""

    name: ClassVar[str]
    version: ClassVar[int]  # part of the key: raise it when the output bytes change
    extra: ClassVar[str] = ""  # the extra that installs what it needs
    imports: ClassVar[tuple[str, ...]] = ()  # importable modules it needs
    libraries: ClassVar[tuple[str, ...]] = ()  # distributions whose versions are part of the key
    target_matters: ClassVar[bool] = False  # whether the target is part of the key
    accepts: ClassVar[type[Model]]
    produces: ClassVar[type[Model]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Read ``accepts`` and ``produces`` off the type parameters."""
        super().__init_subclass__(**kwargs)
        for base in getattr(cls, "__orig_bases__", ()):
            if get_origin(base) is Pass:
                taken, cls.produces = get_args(base)
                cls.accepts = taken

    def check(self, model: In, target: Target) -> None:
        """Raise ``Refused`` when this model is not one this pass can take. Cheap, writes nothing."""

    @abc.abstractmethod
    def run(self, model: In, context: PassContext) -> Out:
        """Do the work and return the reference to what was written."""

    def preparation(self, model: In, target: Target) -> Mapping[str, Any] | None:
        """Return all that ``prepare`` would write depends on, or None when it has nothing to do here.

        It is for work that many models share, such as the graph of a config: the store keeps it by this value.
        """
        return None

    def prepare(self, model: In, context: PassContext) -> None:
        """Write into ``context.folder`` what ``run`` then finds in ``context.prepared``."""

    def promises(self) -> tuple[Promise, ...]:
        """Return the post-conditions that the engine verifies against the input and the output."""
        return ()

    def compresses(self) -> bool:
        """Say whether the step loses precision: ``unquantized`` is the model before the first that does."""
        return False

    def forecast(self, profile: Profile, target: Target, machine: Machine, rows: Mapping[str, int]) -> Forecast:
        """Say what the step will need, from sizes alone.

        Args:
            profile: Of the input model.
            target: What the model is made for.
            machine: Where the step runs.
            rows: Number of rows of each data set, where known.
        """
        return Forecast(memory=2 * profile.bytes, disk=profile.bytes, seconds=profile.bytes / 2e8)

    def profile_after(self, profile: Profile) -> Profile:
        """Return the sizes of the result, for the forecast of the next step."""
        return profile
