"""`python -m sandbox.cli COMMAND`: runs a command and turns errors into one line and an exit code.

Exit codes: 0 success; 1 the command ran and failed (a job or test failed), or it crashed; 2 wrong
usage; 3 something required is missing or taken; 130 interrupted. BLOGSTREAM_TRACEBACK=1 shows the
traceback of a crash.
"""

import os
import sys
import tomllib
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

from sandbox.system.home import ROOT
from shared.domain.errors import Unavailable

COMMANDS = {
    "demo": "start everything, write posts for several stores, show how long each store waited",
    "test": "run the tests (--unit: the fast ones only; other arguments go to pytest)",
    "up": "start everything and keep it running",
    "down": "stop a system that `up --detach` or `demo --keep` left running",
    "run": "start one more process of a service in a running system",
    "doctor": "check the set-up and the AI providers, and name the variable to change",
    "status": "show processes, jobs, consumer groups, lag and URLs",
    "migrate": "database migrations: status, up, down",
    "keys": "API keys: create, list, revoke",
    "stores": "weights of stores in the fair queue, and their accounts: set, list",
    "dead-letters": "records that no service could process: list, show, replay, discard",
    "purge": "delete jobs that ended long ago",
    "load": "run the load test and check its expectations",
    "capacity": "compute the number of workers for a load, and the limit that restricts it",
    "simulate": "run the production rules under a virtual clock: how many workers, which limit",
    "bench": "run benchmarks and write their tables to bench/results",
    "check": "run the gate: format, lint, types, import contracts, tests",
}


class CommandApplication(Protocol):
    """Runs a command and ends the process: a Typer application or an `AdminCommand`."""

    def __call__(self, *, args: Sequence[str], prog_name: str) -> object: ...


def usage_text() -> str:
    width = max(map(len, COMMANDS))
    lines = (f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    return (
        "Usage: ./blogstream COMMAND [OPTIONS]\n\n"
        + "\n".join(lines)
        + "\n\n./blogstream COMMAND --help shows the options of a command,"
        "\n./blogstream --version the version."
    )


def project_version() -> str:
    """Return the version of the project from pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def module_name(command: str) -> str:
    """Return the module of a command; hyphens become underscores."""
    return f"sandbox.cli.{command.replace('-', '_')}"


def main(arguments: list[str]) -> int:
    name, *rest = arguments or [""]
    if name in ("-h", "--help", "help"):
        print(usage_text())
    elif name == "--version":
        print(f"blogstream {project_version()}")
    elif name in COMMANDS:
        return run_command(name, rest)
    elif name:
        print(f"blogstream: no command {name!r}\n\n{usage_text()}", file=sys.stderr)
        return 2
    else:
        print(usage_text())
        return 2
    return 0


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run a command; return the exit code if it did not exit the process itself."""
    try:
        application: CommandApplication = import_module(module_name(name)).application
        application(args=arguments, prog_name=f"./blogstream {name}")  # exits the process
    except Unavailable as error:
        print(f"blogstream: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("BLOGSTREAM_TRACEBACK"):
            raise
        reason = " ".join(str(error).split()) or "no reason given"
        print(
            f"blogstream: {name} crashed: {type(error).__name__}: {reason}"
            " (BLOGSTREAM_TRACEBACK=1 shows the traceback)",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
