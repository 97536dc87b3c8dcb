"""`./blogstream test`: pytest, with its arguments passed through; its summary is the last line."""

import os
import sys

import typer

from sandbox.system.home import ROOT

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_MOST_AT_ONCE = 4
"""Each process of pytest's has a broker and a database server of its own: about a gigabyte of memory."""


@application.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run the tests against a real Kafka and a real PostgreSQL that they start themselves. PYTEST ARGS go through;
    without any, all tests run, spread over several processes by module."""
    os.chdir(ROOT)
    sys.stdout.flush()
    arguments = context.args or ["-n", str(_at_once(os.cpu_count() or 1)), "--dist", "loadscope"]
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments])  # noqa: S606 - our own interpreter


def _at_once(cores: int) -> int:
    """As many as there are cores, and two at least: most tests wait most of the time."""
    return min(max(cores, 2), _MOST_AT_ONCE)
