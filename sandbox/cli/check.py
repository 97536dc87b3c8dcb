"""`./blogstream check`: the gate. Runs every stage, even after a failure."""

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
_FILES = (".", "blogstream")
"""`blogstream` is named because ruff finds only files with the suffix .py."""
_STATIC = {
    "format": (_BIN / "ruff", "format", "--check", "--quiet", *_FILES),
    "lint": (_BIN / "ruff", "check", "--quiet", *_FILES),
    "types": (_BIN / "mypy",),
    "imports": (_BIN / "lint-imports",),
}
_TESTS = (sys.executable, "-m", "sandbox.cli", "test")


@application.command()
def check(
    no_tests: Annotated[bool, typer.Option("--no-tests", help="skip the tests")] = False,
) -> None:
    """Check format, lint, strict types, import contracts and tests. Exits with 0 if all pass."""
    stages = _STATIC if no_tests else _STATIC | {"tests": _TESTS}
    outcomes = {name: _run_stage(name, list(map(str, argv))) for name, argv in stages.items()}
    failed = [name for name, passed in outcomes.items() if not passed]
    print_line(
        f"the gate: {', '.join(failed)} failed"
        if failed
        else f"the gate: {', '.join(outcomes)} passed"
    )
    raise typer.Exit(1 if failed else 0)


def _run_stage(name: str, argv: list[str]) -> bool:
    began = time.monotonic()
    passed = subprocess.run(argv, cwd=ROOT, check=False).returncode == 0
    print_line(f"{'ok    ' if passed else 'FAILED'} {name} ({time.monotonic() - began:.1f} s)")
    return passed
