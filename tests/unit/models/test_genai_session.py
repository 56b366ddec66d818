from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from picual.errors import BadValue, Refused, UnreadableModel
from picual.models import GenaiModel, HfModel
from picual.models.genai_session import GREEDY, GenaiSession
from picual.models.hf_session import HfSession
from picual.passes.base import PassContext
from picual.passes.export.genai import BuildGenai

TEXT = "<|user|>\n It's 42, naïve ✓ 你好\t\n\n  two  <|end|>\n<|assistant|>\n"


@pytest.fixture(scope="module")
def session(taught_genai: GenaiModel) -> Iterator[GenaiSession]:
    with contextlib.closing(GenaiSession(taught_genai, threads=1)) as opened:
        yield opened


@pytest.fixture(scope="module")
def torch_session(taught: HfModel) -> Iterator[HfSession]:
    with contextlib.closing(HfSession(taught, threads=1)) as opened:
        yield opened


def prompt_of(phrase: str) -> str:
    return f"<|user|>\n{phrase}<|end|>\n<|assistant|>\n"


def test_the_answers_are_those_of_the_checkpoint(
    session: GenaiSession, torch_session: HfSession, tones: dict[str, str]
) -> None:
    prompts = [prompt_of(phrase) for phrase in tones] + ["cake for", "x", prompt_of(""), "nobody "]

    answers = session.generate(prompts, max_new_tokens=12)

    assert answers == torch_session.generate(prompts, max_new_tokens=12)
    assert answers[:8] == list(tones.values())


def test_batched_answers_equal_those_asked_one_by_one(session: GenaiSession, tones: dict[str, str]) -> None:
    # Of equal length, so they go together; their answers are not, so some rows end before others.
    longest = max(len(phrase) for phrase in tones)
    prompts = [prompt_of(phrase.rjust(longest)) for phrase in tones]
    assert len({len(session.encode(prompt)) for prompt in prompts}) == 1

    together = session.generate(prompts, max_new_tokens=12)

    assert together == [session.generate([prompt], max_new_tokens=12)[0] for prompt in prompts]
    assert len({len(answer) for answer in together}) > 1


def test_logits_at_every_position_are_those_of_the_checkpoint(
    session: GenaiSession, torch_session: HfSession
) -> None:
    ids = np.arange(3, 60, dtype=np.int64)

    found = session.logits(ids)

    assert found.dtype == np.float32
    np.testing.assert_allclose(found, torch_session.logits(ids), atol=1e-4)


def test_scoring_and_generating_take_turns_with_one_of_them_loaded(session: GenaiSession) -> None:
    prompt = prompt_of("the rope is about to snap")
    ids = np.asarray(session.encode(prompt), dtype=np.int64)

    first = session.generate([prompt], max_new_tokens=9)
    assert "scorer" not in session._held
    scores = session.logits(ids)
    assert "model" not in session._held

    assert session.generate([prompt], max_new_tokens=9) == first == ["fear"]
    np.testing.assert_array_equal(session.logits(ids), scores)


def test_ids_text_and_chat_prompt_are_those_of_the_checkpoints_tokenizer(
    session: GenaiSession, torch_session: HfSession
) -> None:
    messages = [
        {"role": "system", "content": 'be "short"\n'},
        {"role": "user", "content": TEXT},
        {"role": "assistant", "content": "ja, ü"},
        {"role": "user", "content": "x"},
    ]
    ids = torch_session.encode(TEXT)

    assert session.encode(TEXT) == ids
    assert session.decode(ids) == torch_session.decode(ids)
    assert session.chat_prompt(messages) == torch_session.chat_prompt(messages)


def test_special_tokens_alone_read_as_nothing_and_half_a_character_as_half(
    session: GenaiSession, torch_session: HfSession
) -> None:
    half = session.encode("é")[:1]

    for ids in ([], [258], [257, 259], half, [*half, 257], [257, *half]):
        assert session.decode(ids) == torch_session.decode(ids)
    assert (session.decode([257, 259]), session.decode(half)) == ("", "\ufffd")


def test_an_answer_stops_at_a_stop_text_a_special_token_and_the_limit(session: GenaiSession) -> None:
    prompt = prompt_of("the dog is gone for good")

    assert session.generate([prompt], max_new_tokens=12, stop=["ne"]) == ["sad"]
    assert session.generate([prompt], max_new_tokens=3) == ["sad"]
    assert session.generate([prompt], max_new_tokens=0) == [""]
    assert session.generate([], max_new_tokens=3) == []
    # `<|assistant|>` is no EOS, and decoded text does not show it.
    asked = "<|user|>\nthe dog is gone for good<|end|>\n"
    assert session.generate([asked], max_new_tokens=12) == ["\nsadness"]
    assert session.generate([asked], max_new_tokens=12, stop=["<|assistant|>"]) == [""]


def test_streamed_pieces_make_the_generated_answer(session: GenaiSession) -> None:
    pieces = list(session.stream(prompt_of("what, you here of all people"), max_new_tokens=20))

    assert "".join(pieces) == "surprise"
    assert len(pieces) == len("surprise")


def test_sampling_repeats_with_its_seed_and_top_k_of_one_is_greedy(session: GenaiSession) -> None:
    def drawn(**sampling: Any) -> str:
        return "".join(session.stream("the ", max_new_tokens=25, sampling=sampling))

    assert drawn(temperature=5.0, seed=1) == drawn(temperature=5.0, seed=1)
    assert drawn(temperature=5.0, seed=1) != drawn(temperature=5.0, seed=2)
    assert drawn(temperature=5.0, top_k=1, seed=3) == "".join(session.stream("the ", max_new_tokens=25))
    with pytest.raises(BadValue, match="temprature"):
        next(session.stream("a", max_new_tokens=1, sampling={"temprature": 1.0}))


def test_without_packed_weights_no_activation_is_rounded(taught: HfModel, tmp_path: Path) -> None:
    """Kernels of accuracy level 4 round activations when their weights are packed, and only then."""
    logits = {}
    for level in (0, 4):
        place = PassContext(tmp_path / f"out{level}", tmp_path / f"scratch{level}")
        for folder in (place.folder, place.scratch):
            folder.mkdir()
        model = BuildGenai(precision="int4", accuracy_level=level).run(taught, place)
        for packed in (True, False):
            with contextlib.closing(GenaiSession(model, threads=1, packed=packed)) as session:
                row = session.encode(TEXT)
                session._open_generator([row], 1, GREEDY)
                session._read([row])
                logits[level, packed] = np.array(session._held["generator"].get_logits())
    np.testing.assert_allclose(logits[4, False], logits[0, True], atol=1e-4)
    assert abs(logits[4, True] - logits[0, True]).max() > 1e-3


def test_a_prompt_longer_than_the_context_is_a_bad_value(session: GenaiSession) -> None:
    with pytest.raises(BadValue, match="context is 512"):
        session.generate(["a" * 510], max_new_tokens=8)


def test_step_times_go_on_past_the_end_of_the_answer(session: GenaiSession) -> None:
    times = session.step_times(session.encode(prompt_of("cake for everyone today")), 20)

    assert len(times) == 20
    assert min(times) > 0


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("genai_config.json", "genai_config.json"),
        ("model.onnx", "cannot load the model"),
        ("model.onnx.data", "cannot load the model"),
        ("tokenizer.json", "cannot load the tokenizer"),
    ],
)
@pytest.mark.parametrize(
    "use",
    [lambda session: session.generate(["a"], max_new_tokens=1), lambda session: session.logits(np.arange(4))],
    ids=["generate", "logits"],
)
def test_a_file_that_is_cut_short_is_named(
    taught_genai: GenaiModel, tmp_path: Path, file: str, named: str, use: Callable[[GenaiSession], object]
) -> None:
    shutil.copytree(taught_genai.path, tmp_path / "m")
    whole = (tmp_path / "m" / file).read_bytes()
    (tmp_path / "m" / file).write_bytes(whole[: len(whole) // 2])

    def use_it() -> None:
        with contextlib.closing(GenaiSession(GenaiModel(tmp_path / "m"), threads=1)) as session:
            use(session)

    with pytest.raises(UnreadableModel, match=named):
        use_it()


def test_a_folder_without_its_onnx_file_is_refused_at_once(taught_genai: GenaiModel, tmp_path: Path) -> None:
    shutil.copytree(taught_genai.path, tmp_path / "m")
    (tmp_path / "m" / "model.onnx").unlink()

    with pytest.raises(UnreadableModel, match=r"`model\.onnx` is missing"):
        GenaiSession(GenaiModel(tmp_path / "m"), threads=1)


def test_a_model_without_a_chat_template_refuses_to_chat(taught_genai: GenaiModel, tmp_path: Path) -> None:
    shutil.copytree(taught_genai.path, tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").unlink()

    with (
        contextlib.closing(GenaiSession(GenaiModel(tmp_path / "m"), threads=1)) as session,
        pytest.raises(Refused, match="no chat template"),
    ):
        session.chat_prompt([{"role": "user", "content": "hi"}])


def test_a_chat_template_that_raises_refuses_with_its_reason(taught_genai: GenaiModel, tmp_path: Path) -> None:
    shutil.copytree(taught_genai.path, tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").write_text("{{ raise_exception('System role not supported') }}")

    with (
        contextlib.closing(GenaiSession(GenaiModel(tmp_path / "m"), threads=1)) as session,
        pytest.raises(Refused, match="System role not supported"),
    ):
        session.chat_prompt([{"role": "system", "content": "hi"}])


def test_python_ends_without_complaint_though_the_session_was_never_closed(taught_genai: GenaiModel) -> None:
    program = (
        "import json, sys; from pathlib import Path; from picual.models import GenaiModel\n"
        "from picual.models.session import open_session\n"
        "session = open_session(GenaiModel(Path(sys.argv[1])), threads=1)\n"
        "pieces = session.stream('a', max_new_tokens=5); next(pieces)\n"
        "print(json.dumps(session.generate(['<|user|>\\ncake for everyone today<|end|>\\n<|assistant|>\\n'],"
        " max_new_tokens=9)))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(taught_genai.path)], capture_output=True, text=True, check=False
    )

    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, ["joy"], "")
