"""What the guide shows is what the metrics take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from picual.metrics import registry

GUIDE = (Path(__file__).parents[3] / "docs" / "guides" / "metrics.md").read_text(encoding="utf-8")
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)]
ENTRIES = [(name, entry) for block in BLOCKS for name, entry in block.get("metrics", {}).items()]


@pytest.mark.parametrize(("name", "entry"), ENTRIES)
def test_every_metric_in_the_guide_is_one(
    name: str, entry: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_metric.py").write_text("")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text("")
    fields = dict(entry)
    kind = str(fields.pop("type", name))

    assert registry.build(kind, fields).name == kind


def test_the_guides_table_lists_every_metric_and_its_numbers() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|[^|]*\|([^|]*)\|", GUIDE, re.MULTILINE))

    assert sorted(rows) == sorted(registry.names())
    for name, numbers in rows.items():
        kind = registry.load(name)
        assert f"`{kind.key}`" in numbers.split(",")[0]
        known = {*kind.keys, "per_class", "confusion"}
        named = re.findall(r"`([a-z_0-9]+)`", numbers)
        assert not kind.keys or set(named) <= known, name
