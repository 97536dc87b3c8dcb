"""`./blogstream test`: runs pytest and passes its arguments through."""

import os
import sys
from typing import Annotated

import typer

from sandbox.system.home import ROOT

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
    sys.stdout.flush()
    arguments = pytest_arguments(context.args, unit=unit, cores=os.cpu_count() or 1)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments])  # noqa: S606 - this Python


def pytest_arguments(arguments: list[str], *, unit: bool, cores: int) -> list[str]:
    """Return the arguments of pytest.

    Unit tests compute: they get a process for each core. tests/conftest.py orders the modules.
    """
    processes = min(max(cores, 2), _PROCESSES) if unit else _PROCESSES
    in_parallel = ["-n", str(processes), "--dist", "loadscope", "--no-loadscope-reorder"]
    if unit:
        return [_UNIT_TESTS, *in_parallel, *arguments]
    return arguments or in_parallel
