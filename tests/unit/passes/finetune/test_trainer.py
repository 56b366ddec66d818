from __future__ import annotations

import subprocess
import sys

ALONE = """
import sys
from picual.passes.finetune import trainer
made = trainer._trainer_class()
assert "datasets" not in sys.modules and "pandas" not in sys.modules
from transformers import utils
assert utils.is_datasets_available()
"""


def test_the_trainer_comes_without_a_library_it_would_only_ask_for_a_type() -> None:
    ended = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
