"""The command line from outside: what it imports, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXTRAS = ("torch", "transformers", "numpy", "onnx", "onnxruntime", "tokenizers")
HEAVY = (*EXTRAS, "pydantic", "huggingface_hub")


def picual(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "picual.cli.main", *words], capture_output=True, text=True, check=False, timeout=60
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom picual.cli.main import group\n"
        "try:\n    group(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "convert" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "[]"


def test_all_mistakes_of_a_recipe_are_exit_2_with_lines_and_nearest_names(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("version: 1\nmodel: smollm2-135m\npasses:\n  lora: {rnk: 8}\n  bild-genai: {}\n")

    ended = picual("check", str(recipe))

    assert ended.returncode == 2
    assert "unknown pass `bild-genai`" in ended.stderr
    assert "`rank`" in ended.stderr
    assert "line 5" in ended.stderr


def test_a_missing_recipe_is_exit_2_and_no_traceback(tmp_path: Path) -> None:
    ended = picual("plan", str(tmp_path / "absent.yaml"))

    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


def test_an_error_is_json_on_stdout_when_asked(tmp_path: Path) -> None:
    ended = picual("run", str(tmp_path / "absent.yaml"), "--json")

    assert json.loads(ended.stdout)["error"]["error"]


BARE = (
    "check {recipe}",
    "plan {recipe} --store {store} --json",
    "schema",
    "passes list",
    "passes show build-genai",
    "doctor",
)


@pytest.mark.parametrize("words", BARE)
def test_a_bare_install_can_plan(tmp_path: Path, words: str) -> None:
    """No extra is there: what needs one says so, and nothing crashes."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("version: 1\nmodel: smollm2-135m\npasses:\n  build-genai: {precision: int4}\n")
    absent = (*EXTRAS, "mobius", "peft", "sklearn", "scipy", "safetensors", "onnx_ir", "onnxruntime_genai")
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({absent}))\n"
        f"sys.argv = ['picual', *{words.format(recipe=recipe, store=tmp_path / 'store').split()!r}]\n"
        "from picual.cli.main import main\nmain()"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "Traceback" not in ended.stderr
    assert ended.returncode == (3 if words.startswith("plan") else 0), ended.stderr
    if words.startswith("plan"):
        hints = [obstacle["hint"] for obstacle in json.loads(ended.stdout)["obstacles"]]
        assert hints == ['pip install "picual[cpu]"', 'pip install "picual[hf]"']
