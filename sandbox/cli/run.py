"""`./blogstream run SERVICE`: starts one more process in a running system; Ctrl-C drains it."""

import asyncio
import os
from enum import StrEnum
from typing import Annotated

import orjson
import typer

from sandbox.cli.common import print_line, require_running_home, run_until_signal
from sandbox.system.home import Home, free_port, write_atomically
from sandbox.system.process import ChildProcess
from sandbox.system.run_log import RunLog, format_log_line
from sandbox.system.system import service_spec

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Service(StrEnum):
    ingest = "ingest"
    scheduler = "scheduler"
    generator = "generator"
    metrics = "metrics"


@application.command()
def run(service: Annotated[Service, typer.Argument(help="the service")]) -> None:
    """Run one more process of a service until Ctrl-C, which drains it.

    ingest and metrics listen on PORT and METRICS_PORT, or on any free port.
    """
    home, _ = require_running_home()
    raise typer.Exit(run_until_signal(lambda stop: _run_service(home, service, stop)))


async def _run_service(home: Home, service: str, stop: asyncio.Event) -> int:
    variables = home.read_env()
    name = f"{service}+{os.getpid()}"
    if service in ("ingest", "metrics"):
        port_name = "PORT" if service == "ingest" else "METRICS_PORT"
        variables[port_name] = os.environ.get(port_name) or str(free_port())
        print_line(f"{service} on http://127.0.0.1:{variables[port_name]}")
        if service == "metrics":  # two processes cannot share a table store
            variables["METRICS_DIR"] = str(home.path / f"metrics-{variables[port_name]}")
    with RunLog(home.log, lambda line: print_line(format_log_line(line))) as log:
        child = ChildProcess(service_spec(service, name, variables), log)
        await child.start()
        entry = home.extra / f"{child.pid}.json"
        write_atomically(entry, orjson.dumps({"name": name, "pid": child.pid}))
        try:
            return await _wait_and_stop(child, stop)
        finally:
            entry.unlink(missing_ok=True)


async def _wait_and_stop(child: ChildProcess, stop: asyncio.Event) -> int:
    """Stop the process when `stop` is set; return its exit code, or 1 when it exits by itself."""
    ended, stopping = asyncio.create_task(child.wait_until_exit()), asyncio.create_task(stop.wait())
    await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if stop.is_set():
        print_line(f"draining {child.name}")
        return await child.stop()
    print_line((await ended).describe())
    return 1
