"""The command line: verbs by name, each imported only when it is used."""

from __future__ import annotations

import importlib
import sys

import click

from picual import __version__
from picual.cli.render import show_error
from picual.errors import PicualError

VERBS: dict[str, str] = {
    "run": "picual.cli.commands.run:run",
    "plan": "picual.cli.commands.plan:plan",
    "optimize": "picual.cli.commands.optimize:optimize",
    "check": "picual.cli.commands.check:check",
    "convert": "picual.cli.commands.convert:convert",
    "finetune": "picual.cli.commands.one_pass:finetune",
    "merge": "picual.cli.commands.one_pass:merge",
    "quantize": "picual.cli.commands.quantize:quantize",
    "export": "picual.cli.commands.export:export",
    "convert-adapters": "picual.cli.commands.adapters:convert_adapters",
    "extract-adapters": "picual.cli.commands.adapters:extract_adapters",
    "evaluate": "picual.cli.commands.evaluate:evaluate",
    "generate": "picual.cli.commands.generate:generate",
    "chat": "picual.cli.commands.generate:chat",
    "demo": "picual.cli.commands.demo:demo",
    "models": "picual.cli.commands.models:models",
    "passes": "picual.cli.commands.passes:passes",
    "schema": "picual.cli.commands.schema:schema",
    "doctor": "picual.cli.commands.doctor:doctor",
    "store": "picual.cli.commands.store:store",
    "runs": "picual.cli.commands.runs:runs",
    "report": "picual.cli.commands.report:report",
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb."""
        location = VERBS.get(cmd_name)
        if location is None:
            return None
        module, _, attribute = location.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="picual")
def group() -> None:
    """From a language model checkpoint to a verified int4 model for your hardware."""


def main() -> None:
    """Run the command line; every expected error ends with its own exit code."""
    try:
        code = group(standalone_mode=False)  # what `ctx.exit` was given, else None
        sys.exit(code if isinstance(code, int) else 0)
    except click.Abort:
        click.echo("interrupted; the same command continues", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except PicualError as error:
        show_error(error, as_json="--json" in sys.argv)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
