"""`python -m shared.admin keys|stores|dead-letters|purge …`, on DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS.

Exit codes: 0 done; 1 the answer is no, or nobody reads it; 2 wrong usage; 3 something that is needed is missing;
130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from admin import keys, purge, stores
from admin.context import CommandContext, read_variable, print_message
from admin.dead_letters import commands as dead_letters
from shared.domain.errors import Unavailable
from shared.runtime.lifecycle import EXIT_UNAVAILABLE

COMMAND_MODULES = {"keys": keys, "stores": stores, "dead-letters": dead_letters, "purge": purge}


def run_command(
    arguments: Sequence[str], *, prog: str, variable: Callable[[str], str] = read_variable
) -> int:
    """Carry out one command and return its exit code; `Unavailable` when what it needs is missing.

    Where nobody reads on (`| head`), it ends without a word.
    """
    try:
        try:
            return _run(arguments, prog=prog, variable=variable)
        finally:  # now, while it can be caught: Python itself flushes after everything
            print(end="", flush=True)  # unlike sys.stdout.flush(), also where stdout is closed
    except BrokenPipeError:
        _deaf_stdout()
        return 1


def _run(arguments: Sequence[str], *, prog: str, variable: Callable[[str], str]) -> int:
    parser = argparse.ArgumentParser(
        prog=prog, description="What operators do by hand.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMAND_MODULES.items():
        module.add_to(commands, name)
    chosen = parser.parse_args(arguments)
    code: int = chosen.run(chosen, CommandContext(variable))
    return code


def _deaf_stdout() -> None:
    """What is still to be written goes nowhere, or Python would complain of it as the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


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
