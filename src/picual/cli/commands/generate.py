"""``picual generate`` and ``picual chat``: a model answers."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import click

from picual import api
from picual.cli import options, render


def _sampling(command: Any) -> Any:
    return options.with_options(
        command,
        click.option("--max-new-tokens", default=256, show_default=True, help="Longest answer."),
        click.option("--temperature", type=float, help="Sample; left out, the most likely token is taken."),
        click.option("--top-p", type=float, help="Sample among the tokens that make up this share."),
        click.option("--top-k", type=int, help="Sample among this many tokens."),
        click.option("--seed", type=int, help="Of the sampling."),
        click.option("--adapter", help="Which of MODEL's adapters answers, or none; left out, its own choice."),
        click.option("--trust", is_flag=True, help="Allow model code."),
    )


def _chosen(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("temperature", "top_p", "top_k", "seed") if given[name] is not None}


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("prompt")
@click.option("--raw", is_flag=True, help="Give the prompt as it is, without the chat template.")
@_sampling
@options.json_option
def generate(model: Path, prompt: str, raw: bool, as_json: bool, **given: Any) -> None:
    """Let MODEL (Hugging Face, adapter or GenAI folder) answer PROMPT."""
    with contextlib.closing(api.open_model(model, trust=given["trust"], adapter=given["adapter"])) as session:
        text = prompt if raw else session.chat_prompt([{"role": "user", "content": prompt}])
        pieces = session.stream(text, max_new_tokens=given["max_new_tokens"], sampling=_chosen(given))
        if as_json:
            render.show_json({"prompt": text, "answer": "".join(pieces)})
            return
        for piece in pieces:
            click.echo(piece, nl=False)
        click.echo()


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--system", help="What the model is told first.")
@_sampling
@options.json_option
def chat(model: Path, system: str | None, as_json: bool, **given: Any) -> None:
    """Talk with MODEL in its own chat template; an empty line or Ctrl-D ends it."""
    said = [{"role": "system", "content": system}] if system else []
    with contextlib.closing(api.open_model(model, trust=given["trust"], adapter=given["adapter"])) as session:
        while question := _asked():
            said.append({"role": "user", "content": question})
            answer = ""
            prompt = session.chat_prompt(said)
            for piece in session.stream(prompt, max_new_tokens=given["max_new_tokens"], sampling=_chosen(given)):
                answer += piece
                if not as_json:
                    click.echo(piece, nl=False)
            if not as_json:
                click.echo()
            said.append({"role": "assistant", "content": answer})
    if as_json:
        render.show_json({"messages": said})


def _asked() -> str:
    try:
        return str(click.prompt("", prompt_suffix="> ", default="", show_default=False, err=True)).strip()
    except click.Abort:  # the end of the input
        return ""
