"""`./blogstream down`: stops the system that runs in this home."""

import typer

from sandbox.cli.common import require_running_home
from sandbox.cli.up import stop_detached
from sandbox.system.home import current_home

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@application.command()
def down() -> None:
    """Stop the system that runs in this home. Running jobs finish or return to the queue."""
    if current_home().stop_leftovers():
        return
    home, state = require_running_home()
    stop_detached(home, int(state["supervisor"]))
