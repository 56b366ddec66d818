"""Does the result still speak as its source does: the same ids for the same text, the same ends, and it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from picual.engine.verification import packed
from picual.engine.verification.checks import Bench, Check, some
from picual.errors import Refused, UnreadableModel
from picual.models import GenaiModel, HfAdapter, HfCheckpoint, Model
from picual.models.adapter_files import adapters_of
from picual.models.genai_session import GenaiSession
from picual.models.hf import read_json
from picual.passes.base import PromptContractKept

TEXTS = (
    "The harbour was empty, apart from two gulls and a rope.",
    "  Leading spaces,\ttabs,\n\nblank lines and trailing spaces   ",
    "def area(width: float, height: float) -> float:\n    return width * height  # m²\n",
    "3.14159 + 2,718.28 = ? 100% of $5.00, 12:45, 2031-07-04, #42",
    "Één kopje koffie, geen melk. Ça va? Größe, señor, naïve, Łódź.",
    "你好世界。こんにちは。Привет! مرحبا 🙂🚀",
    "UPPER lower MiXeD don't can't it's we'll",
    "<|endoftext|><|end|><|im_start|>user</s>[INST] &amp; <tag attr='1'/>",
)
CHATS = (
    [{"role": "user", "content": "Name a fruit."}],
    [
        {"role": "user", "content": "Hello! How are you?"},
        {"role": "assistant", "content": "Well, thank you."},
        {"role": "user", "content": "Write one line about rain:\n- short\n- plain"},
    ],
)
PACKED = 200_000_000  # bytes of a decoder up to which its weights are packed: 240 MB of memory at most
SPECIAL = ("bos", "eos", "pad", "unk")


def check(promise: PromptContractKept, given: Model, made: Model, bench: Bench) -> Iterator[Check]:
    """Compare both folders' tokenizers, templates and ends; then load what was made."""
    before, after = prompt_folder(given), prompt_folder(made)
    source, result = load_tokenizer(before, _trusted(given)), load_tokenizer(after, _trusted(made))
    yield _same_ids(source, result)
    yield _same_special_tokens(source, result)
    yield from _same_chats(source, result)
    yield _same_ends(given, made)
    if isinstance(made, GenaiModel):
        yield from _runtime(source, made, bench)
    elif isinstance(made, HfCheckpoint):
        yield _names_fit(made)


def prompt_folder(model: Model) -> Path:
    """Return the folder whose tokenizer counts: an adapter's own if it brings one, else its base's."""
    if isinstance(model, HfAdapter):
        own = any(
            (model.path / name).is_file()
            for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
        )
        return model.path if own else prompt_folder(model.base)
    return model.path


def end_ids(model: Model) -> list[int]:
    """Return the ids at which a model stops, sorted: of its generation defaults, else of its config."""
    if isinstance(model, GenaiModel):
        named = model.config().get("model", {}).get("eos_token_id")
    else:
        folder = model.root().path if isinstance(model, HfAdapter) else model.path
        defaults = folder / "generation_config.json"
        named = read_json(defaults).get("eos_token_id") if defaults.is_file() else None
        if named is None:
            named = read_json(folder / "config.json").get("eos_token_id")
    ids = named if isinstance(named, list) else [named]
    return sorted({int(token) for token in ids if token is not None})


def _trusted(model: Model) -> bool:
    root = model.root() if isinstance(model, HfAdapter) else model
    return isinstance(root, HfCheckpoint) and root.trust_remote_code


def load_tokenizer(folder: Path, trusted: bool) -> Any:
    """Return the tokenizer of a folder.

    Raises:
        UnreadableModel: It cannot be loaded.
    """
    from transformers import AutoTokenizer

    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            read_json(folder / name)  # a cut file is named here, more clearly than below
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted, local_files_only=True)
    except Exception as error:  # nothing narrower: tokenizers raises Exception itself for a broken vocabulary
        raise UnreadableModel(f"the tokenizer cannot be loaded ({_line(error)})", where=str(folder)) from error


def _same_ids(source: Any, result: Any) -> Check:
    wrong = [text for text in TEXTS if source(text)["input_ids"] != result(text)["input_ids"]]
    detail = f"other ids for {wrong[0]!r}" if wrong else f"{len(TEXTS)} texts"
    return Check("prompt-token-ids", not wrong, len(wrong), 0, detail)


def _same_special_tokens(source: Any, result: Any) -> Check:
    changed = [
        f"{name} {getattr(source, f'{name}_token')!r} -> {getattr(result, f'{name}_token')!r}"
        for name in SPECIAL
        if getattr(source, f"{name}_token") != getattr(result, f"{name}_token")
        or getattr(source, f"{name}_token_id") != getattr(result, f"{name}_token_id")
    ]
    before, after = (_added(tokenizer) for tokenizer in (source, result))
    if before != after:
        changed.append(f"added tokens differ: {some(sorted(set(map(str, before ^ after))))}")
    return Check("prompt-special-tokens", not changed, len(changed), 0, "; ".join(changed))


def _added(tokenizer: Any) -> set[tuple[int, str, bool]]:
    return {(index, token.content, token.special) for index, token in tokenizer.added_tokens_decoder.items()}


def _same_chats(source: Any, result: Any) -> Iterator[Check]:
    texts = [(_chat(source, chat), _chat(result, chat)) for chat in CHATS]
    wrong = [(before, after) for before, after in texts if before != after]
    detail = ""
    if wrong:
        before, after = wrong[0]
        detail = "the chat template is gone" if after is None else f"{before!r} became {after!r}"
    yield Check("prompt-chat-template", not wrong, len(wrong), 0, detail)


def _chat(tokenizer: Any, chat: list[dict[str, str]]) -> str | None:
    """Return the chat as text; None without a template, the template's own words where it refuses the chat."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        return None
    try:
        return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        return f"refused: {error}"


def _same_ends(given: Model, made: Model) -> Check:
    before, after = end_ids(given), end_ids(made)
    lost, new = sorted(set(before) - set(after)), sorted(set(after) - set(before))
    kept = not lost and (not new or isinstance(made, GenaiModel))  # a runtime may also stop at the tokenizer's
    return Check(
        "prompt-eos", kept, len(lost), 0, f"stops at {before}" if kept else f"stopped at {before}, now at {after}"
    )


def _runtime(source: Any, made: GenaiModel, bench: Bench) -> Iterator[Check]:
    """Load the folder in ONNX Runtime GenAI, compare what its own tokenizer says, and let it answer.

    Packed weights of a large model would be all of it in memory; its fidelity is checked packed, in pieces.
    """
    session = GenaiSession(made, threads=bench.threads, packed=_bytes(made) <= PACKED)
    try:
        yield _runtime_ids(source, session)
        prompt = _chat(source, CHATS[0])
        if prompt is not None:
            yield _runtime_chat(session, prompt)
        text = prompt if prompt is not None else TEXTS[0]
        for adapter in adapters_of(made.path) or (None,):
            session.use(adapter)
            yield _answers(session, text, "" if adapter is None else f", with adapter `{adapter}`")
    finally:
        session.close()


def _bytes(made: GenaiModel) -> int:
    """Return the bytes of the decoder's file and of its data beside it."""
    decoder = made.decoder()
    return sum(file.stat().st_size for file in decoder.parent.glob(f"{decoder.name}*"))


def _runtime_ids(source: Any, session: GenaiSession) -> Check:
    """Accept the runtime's ids with or without the special tokens that the tokenizer puts around a text."""
    plain = [text for text in TEXTS if source(text, add_special_tokens=False)["input_ids"] != session.encode(text)]
    wrapped = [text for text in TEXTS if source(text)["input_ids"] != session.encode(text)]
    wrong = min(plain, wrapped, key=len)
    detail = f"the runtime's tokenizer gives other ids for {wrong[0]!r}" if wrong else f"{len(TEXTS)} texts"
    return Check("runtime-token-ids", not wrong, len(wrong), 0, detail)


def _runtime_chat(session: GenaiSession, expected: str) -> Check:
    try:
        found = session.chat_prompt(CHATS[0])
    except Refused as error:
        return Check("runtime-chat-template", passed=False, detail=error.what)
    except RuntimeError as error:
        return Check("runtime-chat-template", passed=False, detail=f"the runtime cannot apply it ({_line(error)})")
    same = found == expected
    return Check("runtime-chat-template", same, detail="" if same else f"{expected!r} became {found!r}")


def _answers(session: GenaiSession, prompt: str, how: str) -> Check:
    """Generate one token greedily, whatever it is."""
    try:
        made = len(session.step_times(session.encode(prompt), 1))
    except RuntimeError as error:
        return Check("runtime-generates", passed=False, measured=0, bound=1, detail=_line(error) + how)
    return Check("runtime-generates", made >= 1, made, 1, f"greedily, from a chat prompt{how}")


def _names_fit(made: HfCheckpoint) -> Check:
    """Compare the stored names with the network's, built without weights."""
    import torch
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(
            made.path, trust_remote_code=made.trust_remote_code, local_files_only=True
        )
        with torch.device("meta"):
            network = transformers.AutoModelForCausalLM.from_config(
                config, trust_remote_code=made.trust_remote_code
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        return Check(
            "architecture", passed=False, detail=f"transformers cannot build the network ({_line(error)})"
        )
    if _renames(config.model_type):
        return Check("architecture", passed=True, detail=f"{config.model_type}: transformers renames its tensors")
    wanted, stored = network.state_dict(), packed.shapes(made)
    tied = set(getattr(network, "_tied_weights_keys", None) or ()) if config.tie_word_embeddings else set()
    missing = sorted(set(wanted) - set(stored) - tied)
    extra = sorted(set(stored) - set(wanted))
    shapes = [name for name in stored if name in wanted and stored[name] != tuple(wanted[name].shape)]
    parts = [f"missing {some(missing)}"] * bool(missing) + [f"unknown {some(extra)}"] * bool(extra)
    parts += [f"other shapes: {some(shapes)}"] * bool(shapes)
    wrong = len(missing) + len(extra) + len(shapes)
    return Check("architecture", not wrong, wrong, 0, "; ".join(parts))


def _renames(model_type: str) -> bool:
    from transformers import conversion_mapping

    return bool(conversion_mapping.get_checkpoint_conversion_mapping(model_type))


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
