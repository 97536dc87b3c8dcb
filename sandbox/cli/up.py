"""`./blogstream up`: starts everything and stays; `--detach` returns when ready."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer

from sandbox.cli.common import run_until_signal, print_line
from sandbox.system import system
from sandbox.system.environment import choose_ports, standins_needed
from sandbox.system.home import ROOT, Home, current_home, is_running
from sandbox.system.run_log import format_log_line
from shared.domain.errors import Unavailable

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@application.command()
def up(
    generators: Annotated[int, typer.Option(min=1, max=24, help="generator processes")] = 1,
    detach: Annotated[
        bool, typer.Option("--detach", help="return when everything is ready")
    ] = False,
    any_port: Annotated[
        bool, typer.Option("--any-port", help="other ports where 3000 or 3001 is taken")
    ] = False,
) -> None:
    """Start Kafka, PostgreSQL, the four services, and stand-ins for providers without a key. Ctrl-C stops in order."""
    home = current_home().prepare()
    if detach:
        start_detached(
            home, ["up", "--generators", str(generators), *(["--any-port"] if any_port else [])]
        )
        return
    ports = choose_ports(os.environ, any_free=any_port)
    plan = system.SystemOptions(home=home, ports=ports, generators=generators, report=_quiet)
    run_until_signal(lambda stop: system.run_system(plan, stop, started=announce_ready, console=_console()))


def announce_ready(running: system.SandboxSystem) -> None:
    """Where everything is, once it is ready."""
    variables = running.variables
    print_line(
        f"ready: API on http://127.0.0.1:{variables['PORT']}, dashboard on http://127.0.0.1:{variables['METRICS_PORT']}"
    )
    for provider in standins_needed(os.environ):
        print_line(f"no key for {provider}: a stand-in writes, no AI provider is called")
    print_line(
        f"source {current_home().env_file} for DATABASE_URL, KAFKA_BOOTSTRAP_SERVERS and TEST_TOKEN"
    )


def start_detached(home: Home, command: list[str]) -> None:
    """Start a supervisor that outlives this process, show its first lines, and return once it is ready."""
    with home.locked():
        pass  # whoever runs here already is told apart from what we are about to start
    output = home.path / "logs" / "supervisor.log"
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as file:
        process = subprocess.Popen(
            (sys.executable, "-m", "sandbox.cli", *command),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"BLOGSTREAM_CONSOLE": "quiet"},
        )
    with output.open(encoding="utf-8", errors="replace") as lines:
        while True:
            told = lines.read()
            if told:
                sys.stderr.write(told)
            if home.read_state().get("ready") and home.read_state()["supervisor"] == process.pid:
                time.sleep(0.1)
                sys.stderr.write(lines.read())
                return
            if process.poll() is not None:
                sys.stderr.write(lines.read())
                raise Unavailable(f"it did not start; the log is {home.log}")
            time.sleep(0.1)


def stop_detached(home: Home, supervisor: int) -> None:
    os.kill(supervisor, 15)
    while is_running(supervisor):
        time.sleep(0.1)
    print_line(f"stopped what ran in {home.path}")


def _quiet(line: str) -> None:
    if _console() is None:
        print_line(line)


def _console() -> Callable[[str], None] | None:
    """In the foreground every process's lines are shown; detached only what the supervisor says."""
    if os.environ.get("BLOGSTREAM_CONSOLE") == "quiet":
        return None
    return lambda line: print_line(format_log_line(line))
