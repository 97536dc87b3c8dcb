"""Runs the operators' commands (`python -m shared.admin`).

They use the environment's system or, without one, the system of this home.
"""

import sys
from collections.abc import Sequence

from admin.__main__ import run_command
from sandbox.cli.common import require_variable


class AdminCommand:
    """One operators' command as a command of `./blogstream`."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __call__(self, *, args: Sequence[str], prog_name: str) -> None:
        sys.exit(
            run_command(
                [self._command, *args],
                prog=prog_name.removesuffix(f" {self._command}"),
                variable=require_variable,
            )
        )
