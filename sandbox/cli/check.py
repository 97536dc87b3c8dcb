"""`./blogstream check`: the gate. Every stage runs, whatever the ones before it said."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from sandbox.cli.common import print_line
from sandbox.system.home import ROOT

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_BIN = Path(sys.executable).parent
_STATIC = {
    "format": (
        _BIN / "ruff",
        "format",
        "--check",
        "--quiet",
        ".",
        "blogstream",
    ),  # it has no .py to be found by
    "lint": (_BIN / "ruff", "check", "--quiet", ".", "blogstream"),
    "types": (_BIN / "mypy",),
    "imports": (_BIN / "lint-imports",),
}
_TESTS = (sys.executable, "-m", "sandbox.cli", "test")


@application.command()
def check(
    no_tests: Annotated[bool, typer.Option("--no-tests", help="leave the tests out")] = False,
) -> None:
    """Format, lint, strict types, import contracts, tests. Exit 0 only if all pass."""
    stages = _STATIC if no_tests else _STATIC | {"tests": _TESTS}
    outcomes = {name: _stage(name, list(map(str, argv))) for name, argv in stages.items()}
    failed = [name for name, passed in outcomes.items() if not passed]
    print_line(
        f"the gate: {', '.join(failed)} failed"
        if failed
        else f"the gate: {', '.join(outcomes)} passed"
    )
    raise typer.Exit(1 if failed else 0)


def _stage(name: str, argv: list[str]) -> bool:
    began = time.monotonic()
    passed = subprocess.run(argv, cwd=ROOT, check=False).returncode == 0
    print_line(f"{'ok    ' if passed else 'FAILED'} {name} ({time.monotonic() - began:.1f} s)")
    return passed
