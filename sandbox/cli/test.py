"""`./blogstream test`: runs pytest and passes its arguments through."""

import os
import sys
from typing import Annotated

import typer

from sandbox.cli.common import print_line
from sandbox.demo.browser import INSTALL_VARIABLE, require_browser
from sandbox.system.home import ROOT
from shared.domain.errors import Unavailable

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_PROCESSES = 4
"""Most tests wait most of the time, so that two cores have work for four processes. Each process
runs its own broker and database server: about a gigabyte of memory.
"""
_UNIT_TESTS = "tests/unit"


@application.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run_tests(
    context: typer.Context,
    unit: Annotated[
        bool, typer.Option("--unit", help="run only the fast tests, in tests/unit")
    ] = False,
) -> None:
    """Run the tests; they start their own Kafka and PostgreSQL.

    Arguments go to pytest. Without arguments, all tests run in parallel, distributed by module.
    """
    os.chdir(ROOT)
    if not unit and os.environ.get(INSTALL_VARIABLE) == "1":
        _install_browser()
    sys.stdout.flush()
    arguments = pytest_arguments(context.args, unit=unit, cores=os.cpu_count() or 1)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments])  # noqa: S606 - this Python


def _install_browser() -> None:
    """Install Chromium before the first test: parallel test processes would wait for each other."""
    try:
        require_browser()
    except Unavailable as error:
        print_line(str(error))


def pytest_arguments(arguments: list[str], *, unit: bool, cores: int) -> list[str]:
    """Return the arguments of pytest.

    Unit tests compute: they get a process for each core. tests/conftest.py orders the modules.
    """
    processes = min(max(cores, 2), _PROCESSES) if unit else _PROCESSES
    in_parallel = ["-n", str(processes), "--dist", "loadscope", "--no-loadscope-reorder"]
    if unit:
        return [_UNIT_TESTS, *in_parallel, *arguments]
    return arguments or in_parallel
