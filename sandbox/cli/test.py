"""`./blogstream test`: pytest, with its arguments passed through; its summary is the last line."""

import os
import sys

import typer

from sandbox.home import ROOT

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@application.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run the tests against a real Kafka and a real PostgreSQL that they start themselves. PYTEST ARGS go through."""
    os.chdir(ROOT)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *context.args])  # noqa: S606 - our own interpreter
