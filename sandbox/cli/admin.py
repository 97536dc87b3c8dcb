"""What operators do by hand (`shared.admin`), on the environment's system or, where it names none, on this home's."""

import sys
from collections.abc import Sequence

from admin.__main__ import run
from sandbox.cli.common import require_variable


class AdminCommand:
    """One of its commands, called as the frame calls all."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __call__(self, *, args: Sequence[str], prog_name: str) -> None:
        sys.exit(
            run(
                [self._command, *args],
                prog=prog_name.removesuffix(f" {self._command}"),
                variable=require_variable,
            )
        )
