"""`./blogstream migrate`: migrates DATABASE_URL or, without it, this home's database."""

import os

import typer

from migrations.__main__ import run_command
from migrations.settings import MigrationSettings
from sandbox.cli.common import require_variable, run_coroutine

application = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Apply, list or revert the database migrations of DATABASE_URL.",
)


def _settings() -> MigrationSettings:
    os.environ["DATABASE_URL"] = require_variable("DATABASE_URL")
    return MigrationSettings.from_environment()


@application.command()
def status() -> None:
    """List the migrations, and when each was applied."""
    run_coroutine(run_command("status", _settings()))


@application.command()
def up() -> None:
    """Apply all missing migrations. Parallel runs are safe."""
    run_coroutine(run_command("up", _settings()))


@application.command()
def down(steps: int = typer.Option(1, min=1, help="number of migrations to revert")) -> None:
    """Revert the newest migrations. This drops tables with their data: make a backup first."""
    run_coroutine(run_command("down", _settings(), steps))
