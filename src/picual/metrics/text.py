"""Texts that models are scored on, and the score of one window. Shared by the metrics that read logits."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from picual.data.text import text_of
from picual.errors import BadValue
from picual.metrics.base import MetricContext
from picual.models.session import Session

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

OWN_TEXT = Path(__file__).parents[1] / "assets" / "verification" / "text.txt"
# 97.5 % of Student's t for 1, 2, ... degrees of freedom; beyond, the last.
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.0)
ROWS = 32  # positions at a time: float64 copies of a whole window's logits would take gigabytes


def read_text(data: str | None, file: str | None, context: MetricContext, *, by: str) -> str:
    """Return the text of a file, or of all rows of a data set, one after the other.

    Raises:
        BadValue: Neither is given, or both, or the file is not there or not UTF-8.
    """
    if (data is None) == (file is None):
        raise BadValue(f"`{by}` takes either `data` or `file`", hint=f"picual evaluate MODEL --metric {by}=FILE")
    if data is not None:
        return text_of(context.dataset(data, by=by))
    path = Path(str(file))
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BadValue(f"`{by}`: the file `{path}` is not there", hint="give the path of a text file") from error
    except UnicodeDecodeError as error:
        raise BadValue(
            f"`{by}`: `{path}` is not UTF-8 text ({error.reason})", hint=f"iconv -t UTF-8 {shlex.quote(str(path))}"
        ) from error


def windows(session: Session, text: str, *, count: int, length: int, by: str) -> list[npt.NDArray[np.int64]]:
    """Return the first ``count`` windows of ``length`` tokens of ``text``, none sharing a token.

    Raises:
        BadValue: The text is shorter than one window.
    """
    import numpy as np

    if count < 1 or length < 2:
        raise BadValue(f"`{by}` needs at least 1 window of 2 tokens", hint="leave out `windows` and `length`")
    ids = session.encode(text)
    if len(ids) < length:
        raise BadValue(
            f"`{by}`: the text has {len(ids)} tokens, one window takes {length}",
            hint="give a longer text, or a smaller `length`",
        )
    starts = range(0, len(ids) - length + 1, length)
    return [np.asarray(ids[start : start + length], dtype=np.int64) for start in starts[:count]]


def spread_of_mean(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of a few values: Student's t, which few values make wide."""
    count = len(values)
    mean = sum(values) / count
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    reach = STUDENT[min(count - 1, len(STUDENT)) - 1] * deviation / math.sqrt(count)
    return mean - reach, mean + reach


def negative_log_likelihood(logits: npt.NDArray[np.float32], ids: npt.NDArray[np.int64]) -> float:
    """Return the sum over T - 1 positions of the negative log likelihood of the next token, in nats.

    Args:
        logits: (T, V), of which the last row predicts nothing that is known.
        ids: (T)
    """
    import numpy as np

    total = 0.0
    for start in range(0, len(ids) - 1, ROWS):
        wanted = ids[start + 1 : start + 1 + ROWS]  # (rows)
        part = logits[start : start + len(wanted)].astype(np.float64)  # (rows, V)
        highest = part.max(axis=1)
        with np.errstate(invalid="ignore"):  # infinite logits: the caller names the window
            total += float((highest + np.log(np.exp(part - highest[:, None]).sum(axis=1))).sum())
        total -= float(part[np.arange(len(wanted)), wanted].sum())
    return total
