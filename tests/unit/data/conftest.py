from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer

from picual.testing import tiny_model


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One token a character; `<|end|>` is its EOS."""
    return AutoTokenizer.from_pretrained(tiny_model(tmp_path_factory.mktemp("tiny")).path)
