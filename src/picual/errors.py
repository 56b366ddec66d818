"""Everything that can go wrong on purpose, and the exit code of each branch.

* PicualError
  x RecipeError        the recipe, before anything ran                      exit 2
    + UnknownName      a key, pass, parameter, provider: nearest names shown
    + BadValue         a value outside its domain, or a file that is not there
    + StepsDoNotFit    a step cannot take what the one before it makes
    + RecipeProblems   several of the above, shown together
  x EnvironmentFault   this machine, not the recipe                         exit 3
    + MissingDependency, DeviceUnavailable, NotEnough (memory, disk)
  x StepFailed         one step ran, or was about to, and did not finish    exit 4
    + Refused          the pass says why this model is not for it
    + UnreadableModel  a file of the model is corrupt, truncated or missing
    + BrokenPromise    a pass broke its contract: a fault in the pass
    + JobLost          the worker died; carries the step and its peak memory
    + NotMeasured, NotRegistered   the model is in its place, and what comes after it was not done
  x StoreError         Corrupt (set aside), Busy (names the holder)         exit 5
  x NothingFits        no candidate met the constraints                     exit 6
  x NotVerified        the result did not pass verification                 exit 7
  x Interrupted        Ctrl-C; the next run continues                       exit 130

Anything else that escapes is a bug of ours: exit 1 and a traceback.

An error says what, where and why, then gives a hint that works when pasted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar


class PicualError(Exception):
    """Base of every error raised on purpose.

    Args:
        what: One sentence: what is wrong.
        where: File and line, step, or path.
        hint: What to do next; a command in backquotes works when pasted, and so does each of several lines.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        """Render as the command line shows it, without colours."""
        lines = [self.what]
        if self.where:
            lines.append(f"  at {self.where}")
        if self.hint:
            lines += ["", *(f"hint: {line}" for line in self.hint.splitlines())]
        return "\n".join(lines)

    def located(self, where: str) -> PicualError:
        """Add the place where it happened, unless a nearer one is known already."""
        if not self.where:
            self.where = where
        return self

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form in which a worker hands the error to its driver."""
        return {"error": type(self).__name__, "what": self.what, "where": self.where, "hint": self.hint}


class RecipeError(PicualError):
    """The recipe is wrong; nothing ran."""

    exit_code = 2


class UnknownName(RecipeError):
    """A name that is not one of the known ones."""


class BadValue(RecipeError):
    """A value outside its domain."""


class StepsDoNotFit(RecipeError):
    """A step cannot take what the step before it makes."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe: where (`line 14, step 3`), what, and how to mend it."""

    where: str
    what: str
    hint: str = ""


class RecipeProblems(RecipeError):
    """All mistakes of one file, shown together."""

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{file} has {count}")
        self.file = file
        self.problems = tuple(problems)

    def __str__(self) -> str:
        """List the problems in the order of the file, then their hints."""
        lines = [self.what, ""]
        lines += [f"  {problem.where}: {problem.what}" for problem in self.problems]
        hints = list(dict.fromkeys(problem.hint for problem in self.problems if problem.hint))
        if hints:
            lines += ["", *(f"hint: {hint}" for hint in hints)]
        return "\n".join(lines)

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form, each problem on its own."""
        problems = [{"where": p.where, "what": p.what, "hint": p.hint} for p in self.problems]
        return {**super().to_wire(), "file": self.file, "problems": problems}


class EnvironmentFault(PicualError):
    """This machine lacks something; the recipe is fine."""

    exit_code = 3


class MissingDependency(EnvironmentFault):
    """A package that a step needs is not installed."""


class DeviceUnavailable(EnvironmentFault):
    """A device, execution provider or host is not here."""


class NotEnough(EnvironmentFault):
    """Not enough memory or disk for the forecast."""


class StepFailed(PicualError):
    """A step ran and did not finish."""

    exit_code = 4


class Refused(StepFailed):
    """A pass declines a model, with its reason, before writing anything."""


class UnreadableModel(StepFailed):
    """A file of a model is corrupt, truncated or missing."""


class BrokenPromise(StepFailed):
    """A pass broke its contract."""


class JobLost(StepFailed):
    """The worker process ended without an answer."""


class NotMeasured(StepFailed):
    """The model is finished, verified and in its place, but a metric could not be taken."""


class NotRegistered(StepFailed):
    """The model is finished, verified and in its place, but could not be registered."""


class StoreError(PicualError):
    """The store or one of its locks."""

    exit_code = 5


class Corrupt(StoreError):
    """A store entry does not match its digest; it was set aside."""


class Busy(StoreError):
    """Another process holds the lock."""


class NothingFits(PicualError):
    """No candidate met the constraints; the best so far is kept."""

    exit_code = 6


class NotVerified(PicualError):
    """The result did not pass verification."""

    exit_code = 7


class Interrupted(PicualError):
    """The user stopped the run; the same command continues it."""

    exit_code = 130


def from_wire(wire: Mapping[str, Any]) -> PicualError:
    """Rebuild an error from its JSON form; an unknown class becomes ``StepFailed``."""
    kinds: dict[str, type[PicualError]] = {}
    pending: list[type[PicualError]] = [PicualError]
    while pending:
        kind = pending.pop()
        kinds[kind.__name__] = kind
        pending += kind.__subclasses__()
    if wire["error"] == "RecipeProblems":
        return RecipeProblems(wire["file"], [Problem(**problem) for problem in wire["problems"]])
    kind = kinds.get(wire["error"], StepFailed)
    return kind(wire["what"], where=wire.get("where", ""), hint=wire.get("hint", ""))


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return a hint with the known names that ``name`` may be a slip for; empty where it is like none of them."""
    hint = nearest(name, known)
    return hint if hint.startswith("did you mean") else ""


def nearest(name: str, known: Sequence[str], *, count: int = 3) -> str:
    """Return a hint with the known names closest to ``name``, or with all of them if they are few."""
    lowered = {candidate.lower(): candidate for candidate in known}
    close = [lowered[match] for match in get_close_matches(name.lower(), list(lowered), n=count, cutoff=0.6)]
    if close:
        return "did you mean " + " or ".join(f"`{match}`" for match in close) + "?"
    if 0 < len(known) <= 12:
        return "it can be " + ", ".join(f"`{candidate}`" for candidate in known)
    return ""
