"""``picual generate``: one answer."""

from __future__ import annotations

from pathlib import Path

import click

from picual import hardware
from picual.models.detect import open_folder
from picual.models.session import open_session


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("prompt")
@click.option("--max-new-tokens", default=64, show_default=True, help="Longest answer.")
@click.option("--temperature", default=0.0, help="0 is greedy.")
@click.option("--raw", is_flag=True, help="Give the prompt as it is, without the chat template.")
def generate(model: Path, prompt: str, max_new_tokens: int, temperature: float, raw: bool) -> None:
    """Let MODEL (Hugging Face, adapter or GenAI folder) answer PROMPT."""
    session = open_session(open_folder(model), threads=hardware.physical_cores())
    try:
        text = prompt if raw else session.chat_prompt([{"role": "user", "content": prompt}])
        sampling = {"temperature": temperature} if temperature else None
        for piece in session.stream(text, max_new_tokens=max_new_tokens, sampling=sampling):
            click.echo(piece, nl=False)
        click.echo()
    finally:
        session.close()
