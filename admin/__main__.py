"""`python -m shared.admin keys|stores|dead-letters|purge …`

Reads DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS. Exit codes: 0 done; 1 the command found a negative
answer, or its output has no reader; 2 wrong usage; 3 a dependency or a setting is missing;
130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from admin import keys, purge, stores
from admin.context import CommandContext, print_message, read_variable
from admin.dead_letters import commands as dead_letters
from shared.domain.errors import Unavailable
from shared.runtime.lifecycle import EXIT_UNAVAILABLE

COMMAND_MODULES = {"keys": keys, "stores": stores, "dead-letters": dead_letters, "purge": purge}


def run_command(
    arguments: Sequence[str], *, prog: str, variable: Callable[[str], str] = read_variable
) -> int:
    """Run one command and return its exit code. `Unavailable` when a dependency is missing.

    `variable` returns the value of an environment variable or raises `Unavailable`. The command
    ends silently when the reader of its output has gone (`| head`).
    """
    try:
        try:
            return _parse_and_run(arguments, prog=prog, variable=variable)
        finally:
            # Flushes now, while the error can be caught: Python itself flushes after everything.
            # Unlike sys.stdout.flush(), this works where stdout is closed.
            print(end="", flush=True)
    except BrokenPipeError:
        _discard_stdout()
        return 1


def _parse_and_run(arguments: Sequence[str], *, prog: str, variable: Callable[[str], str]) -> int:
    parser = argparse.ArgumentParser(
        prog=prog, description="Operators' commands.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMAND_MODULES.items():
        module.add_commands(commands, name)
    parsed = parser.parse_args(arguments)
    code: int = parsed.run(parsed, CommandContext(variable))
    return code


def _discard_stdout() -> None:
    """Redirect stdout to nowhere, so that Python does not report an error when the process ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def main() -> int:
    try:
        return run_command(sys.argv[1:], prog="python -m shared.admin")
    except Unavailable as error:
        print_message(str(error))
        return EXIT_UNAVAILABLE
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
