"""`./blogstream up`: starts the system; `--detach` returns when it is ready."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer

from sandbox.cli.common import print_line, run_until_signal
from sandbox.cli.doctor import check_real_providers
from sandbox.system import system
from sandbox.system.environment import choose_ports, describe_providers
from sandbox.system.home import ROOT, Home, current_home, is_running
from sandbox.system.run_log import format_log_line
from shared.domain.errors import Unavailable

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@application.command()
def up(
    generators: Annotated[int, typer.Option(min=1, max=24, help="number of workers")] = 1,
    detach: Annotated[
        bool, typer.Option("--detach", help="return when everything is ready")
    ] = False,
    any_port: Annotated[
        bool, typer.Option("--any-port", help="use free ports if 3000 or 3001 is taken")
    ] = False,
) -> None:
    """Start Kafka, PostgreSQL, the four services, and stand-ins for providers without a key.

    Ctrl-C stops them in order.
    """
    home = current_home().prepare()
    if detach:
        start_detached(
            home, ["up", "--generators", str(generators), *(["--any-port"] if any_port else [])]
        )
        return
    ports = choose_ports(os.environ, any_free=any_port)
    check_real_providers(os.environ, must_work=False)
    options = system.SystemOptions(
        home=home, ports=ports, generators=generators, report=_print_if_detached
    )
    run_until_signal(
        lambda stop: system.run_system(options, stop, started=announce_ready, console=_console())
    )


def announce_ready(running: system.SandboxSystem) -> None:
    """Print the URLs and the env file of a system that is ready."""
    variables = running.variables
    print_line(
        f"ready: API on http://127.0.0.1:{variables['PORT']},"
        f" dashboard on http://127.0.0.1:{variables['METRICS_PORT']}"
    )
    for line in describe_providers(os.environ):
        print_line(line)
    print_line(
        f"source {current_home().env_file} for DATABASE_URL, KAFKA_BOOTSTRAP_SERVERS and TEST_TOKEN"
    )


def start_detached(home: Home, command: list[str]) -> None:
    """Start a supervisor in the background, print its output, and return once it is ready."""
    with home.locked():
        pass  # fails at once when another system runs here
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
            text = lines.read()
            if text:
                sys.stderr.write(text)
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
    print_line(f"stopped the system in {home.path}")


def _print_if_detached(line: str) -> None:
    if _console() is None:
        print_line(line)


def _console() -> Callable[[str], None] | None:
    """Return the printer of log lines: in the foreground all processes' lines are printed."""
    if os.environ.get("BLOGSTREAM_CONSOLE") == "quiet":
        return None
    return lambda line: print_line(format_log_line(line))
