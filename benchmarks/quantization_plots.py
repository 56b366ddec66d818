"""Draw a table of ``quantization.py quality --table`` as two pictures: size and time against quality.

    python benchmarks/quantization_plots.py TABLE.json OUT_FOLDER

Writes ``quantization-size.svg`` and ``quantization-time.svg``. A row needs ``who``, ``way`` and ``ratio``
(perplexity, the float model's is 1), and stands in each picture whose other number, ``size`` in MB or ``seconds``,
it has: so published figures of others can be put into the table by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from picual import _atomic
from picual.report.charts import Scale, scale

WIDTH, HEIGHT = 760, 460  # pixels
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 76, 52  # of them around the chart
MARK = 5  # half a mark's width
LETTER, LINE = 7.3, 14  # about the width and height of a letter of the labels
# One for each of `who`, Picual's first: told apart by shape as well as by colour.
SHAPES = ("M-5 0A5 5 0 1 0 5 0A5 5 0 1 0 -5 0Z", "M-4.5-4.5H4.5V4.5H-4.5Z", "M0-6L6 5H-6Z", "M0-6L6 0L0 6L-6 0Z")
# The colours of the report page's curves, light and dark.
STYLE = """
svg { --card: #ffffff; --ink: #1e221b; --soft: #575d52; --line: #dcded6; font: 12px system-ui, "DejaVu Sans", sans-serif; }
.a0 { fill: #4d6a14 } .a1 { fill: #2b5c9e } .a2 { fill: #9a4f0b } .a3 { fill: #7a3a86 }
@media (prefers-color-scheme: dark) {
  svg { --card: #1e211b; --ink: #e9ebe4; --soft: #adb3a5; --line: #363a31 }
  .a0 { fill: #b2cf6b } .a1 { fill: #93bdf0 } .a2 { fill: #efb074 } .a3 { fill: #d7a5e2 }
}
.card { fill: var(--card) } .grid line { stroke: var(--line) } .grid text, .axis { fill: var(--soft) }
.title { font-size: 15px; font-weight: 600 } .title, .label { fill: var(--ink) }
"""  # noqa: E501  # one rule a line


@dataclass(frozen=True)
class Point:
    """One row in one picture."""

    who: str
    way: str
    x: float
    y: float


@dataclass(frozen=True)
class Box:
    """Where something stands, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Say whether two overlap."""
        beside = self.right <= other.left or other.right <= self.left
        return not (beside or self.bottom <= other.top or other.bottom <= self.top)

    def outside(self) -> float:
        """Return by how many pixels it leaves the chart."""
        over = (LEFT - self.left, self.right - WIDTH + RIGHT, TOP - self.top, self.bottom - HEIGHT + BOTTOM)
        return sum(max(0.0, one) for one in over)


def main() -> None:
    """Write both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    table = json.loads(given.table.read_text(encoding="utf-8"))
    for name, key, title, axis in (
        ("size", "size", "Size and quality", "MB of the exported files, lower is better"),
        ("time", "seconds", "Time and quality", "seconds of quantizing, lower is better"),
    ):
        points = points_of(table["rows"], key)
        if not points:
            sys.exit(f"{given.table}: no row has `ratio` and `{key}`")
        file = given.folder / f"quantization-{name}.svg"
        _atomic.write_text(file, picture(points, f"{title}, {table['date']}", axis))
        print(file)


def points_of(rows: Sequence[dict[str, Any]], key: str) -> list[Point]:
    """Return the rows that hold both numbers."""
    return [
        Point(row["who"], row["way"], float(row[key]), float(row["ratio"]))
        for row in rows
        if row.get(key) is not None and row.get("ratio") is not None
    ]


def picture(points: Sequence[Point], title: str, axis: str) -> str:
    """Return one chart as a file of its own."""
    x, y = scale([point.x for point in points]), scale([point.y for point in points])
    who = sorted({point.who for point in points}, key=lambda name: (name != "Picual", name))
    if len(who) > len(SHAPES):
        sys.exit(f"{len(who)} of `who`, and {len(SHAPES)} can be told apart: {', '.join(who)}")
    places = [(across(x, point.x), down(y, point.y)) for point in points]
    told = "; ".join(f"{point.who}, {point.way}: {point.x:g}, x{point.y:.3f}" for point in points)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        ' role="img" aria-labelledby="title told">',
        f'<title id="title">{escape(title)}</title><desc id="told">{escape(told)}</desc>',
        f'<style>{STYLE}</style><rect class="card" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        f'<text class="title" x="{LEFT}" y="24">{escape(title)}</text>',
        *legend(who),
        f'<text class="axis" x="{LEFT}" y="{TOP - 10}">perplexity, float model = 1, lower is better</text>',
        f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 10}" text-anchor="end">{escape(axis)}</text>',
        *grid(x, y),
    ]
    for point, (left, top) in zip(points, places, strict=True):
        number = who.index(point.who)
        parts.append(f'<path class="a{number}" transform="translate({left:.1f} {top:.1f})" d="{SHAPES[number]}"/>')
    return "\n".join([*parts, *labels(points, places), "</svg>", ""])


def across(x: Scale, value: float) -> float:
    """Return the pixel of a value of the lower axis."""
    return LEFT + x.at(value) * (WIDTH - LEFT - RIGHT)


def down(y: Scale, value: float) -> float:
    """Return the pixel of a value of the upright axis."""
    return TOP + (1 - y.at(value)) * (HEIGHT - TOP - BOTTOM)


def legend(who: Sequence[str]) -> list[str]:
    """Return a mark and a name of each, from the right."""
    parts, right = [], float(WIDTH - RIGHT)
    for number, name in reversed(list(enumerate(who))):
        parts.append(f'<text class="label" x="{right:.1f}" y="24" text-anchor="end">{escape(name)}</text>')
        right -= LETTER * len(name) + 12
        parts.append(f'<path class="a{number}" transform="translate({right:.1f} 20)" d="{SHAPES[number]}"/>')
        right -= 16
    return parts


def grid(x: Scale, y: Scale) -> list[str]:
    """Return the lines of the ticks and their numbers."""
    parts = ['<g class="grid">']
    for share, text in x.ticks:
        at = LEFT + share * (WIDTH - LEFT - RIGHT)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{text}</text>')
    for share, text in y.ticks:
        at = TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    return [*parts, "</g>"]


def labels(points: Sequence[Point], places: Sequence[tuple[float, float]]) -> list[str]:
    """Return the name of each point, where it hides as little as can be."""
    taken = [Box(left - MARK, top - MARK, left + MARK, top + MARK) for left, top in places]
    parts = []
    for point, (left, top) in zip(points, places, strict=True):
        wide, near = LETTER * len(point.way), MARK + 4
        above_and_below = (-near - LINE, near, -near - 2 * LINE, near + LINE)
        spots = [
            ("start", left + near, Box(left + near, top - LINE / 2, left + near + wide, top + LINE / 2)),
            ("end", left - near, Box(left - near - wide, top - LINE / 2, left - near, top + LINE / 2)),
            *(
                ("middle", left, Box(left - wide / 2, top + away, left + wide / 2, top + away + LINE))
                for away in above_and_below
            ),
        ]
        hidden = [1000 * sum(box.meets(one) for one in taken) + box.outside() for _, _, box in spots]
        anchor, at, box = spots[hidden.index(min(hidden))]
        taken.append(box)
        where = f'x="{at:.1f}" y="{box.bottom - 3:.1f}" text-anchor="{anchor}"'
        parts.append(f'<text class="label" {where}>{escape(point.way)}</text>')
    return parts


if __name__ == "__main__":
    main()
