"""`./blogstream migrate`: migrations on DATABASE_URL, or on this home's running system."""

import os

import typer

from migrations.__main__ import execute
from migrations.settings import MigrationSettings
from sandbox.cli.common import require_variable, run_coroutine

application = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Migrations on DATABASE_URL.",
)


def _settings() -> MigrationSettings:
    os.environ["DATABASE_URL"] = require_variable("DATABASE_URL")
    return MigrationSettings.from_environment()


@application.command()
def status() -> None:
    """Which are applied, and when."""
    run_coroutine(execute("status", _settings()))


@application.command()
def up() -> None:
    """Apply all that are missing. Several at once do no harm."""
    run_coroutine(execute("up", _settings()))


@application.command()
def down(steps: int = typer.Option(1, min=1, help="how many to revert")) -> None:
    """Revert the newest. Tables go with their data: back up before."""
    run_coroutine(execute("down", _settings(), steps))
