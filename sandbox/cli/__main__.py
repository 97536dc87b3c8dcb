"""`python -m sandbox.cli COMMAND`: finds the command, and turns what went wrong into one line and an exit code.

Exit codes: 0 done; 1 it ran, and the answer is no (a job failed, a test failed), or it broke; 2 wrong usage;
3 something that is needed is missing or taken; 130 interrupted. BLOGSTREAM_TRACEBACK=1 shows where it broke.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

from shared.domain.errors import Unavailable

COMMANDS = {
    "demo": "start everything, write posts for several shops, show who waited how long",
    "test": "run the tests (arguments go to pytest)",
    "up": "start everything and stay",
    "down": "stop what `up --detach` or `demo --keep` left running",
    "run": "one more process of a service beside a running system",
    "status": "processes, jobs, consumer groups, lag, URLs",
    "migrate": "database migrations: status, up, down",
    "keys": "API keys: create, list, revoke",
    "stores": "what stores weigh in the fair order, and which of them are one account: set, list",
    "dead-letters": "records that no service could handle: list, show, replay, discard",
    "purge": "remove jobs that ended long ago",
    "load": "the load test, its expectations judged",
    "capacity": "how many workers a load needs, and which limit ends it",
    "bench": "benchmarks: ratios, side by side in one run, written to bench/results",
    "check": "the gate: format, lint, types, import contracts, tests",
}


class CommandApplication(Protocol):
    """What carries out a command and ends the process: Typer's, or `shared.admin`."""

    def __call__(self, *, args: Sequence[str], prog_name: str) -> object: ...


def usage_text() -> str:
    width = max(map(len, COMMANDS))
    lines = (f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    return (
        "Usage: ./blogstream COMMAND [OPTIONS]\n\n"
        + "\n".join(lines)
        + "\n\n./blogstream COMMAND --help tells more."
    )


def module_name(command: str) -> str:
    """The file of a command: Python's names have no hyphens."""
    return f"sandbox.cli.{command.replace('-', '_')}"


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage_text())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"blogstream: no command {name!r}\n\n{usage_text()}", file=sys.stderr)
        return 2
    try:
        application: CommandApplication = import_module(module_name(name)).application
        application(args=rest, prog_name=f"./blogstream {name}")  # exits by itself
    except Unavailable as error:
        print(f"blogstream: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("BLOGSTREAM_TRACEBACK"):
            raise
        told = " ".join(str(error).split()) or "no reason given"
        where = "BLOGSTREAM_TRACEBACK=1 shows where"
        print(
            f"blogstream: {name} broke: {type(error).__name__}: {told} ({where})", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
