"""Finds and stops processes that a killed system left running in its home.

It recognises them by their arguments and environment in /proc, so it works only on Linux. On other
systems a leftover server is reported as a port that is taken.
"""

import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_NAME = "blogstream.home"
_SUPERVISOR = "sandbox.cli"
_SERVICES = ("services.", "sandbox.providers", "sandbox.standins")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningProcess:
    """A running process, as far as /proc shows it."""

    pid: int
    parent: int
    leads_session: bool
    argv: tuple[str, ...]
    values: frozenset[str]
    """The values of its environment variables."""

    @property
    def is_server(self) -> bool:
        return any(_NAME in argument for argument in self.argv)

    @property
    def name(self) -> str:
        if not self.is_server:
            package, _, name = self.argv[2].rpartition(".")
            return "standins" if package == "sandbox" else name
        return "postgres" if Path(self.argv[0]).name == "postgres" else "kafka"


def home_marker(home: Path) -> str:
    """Return the server setting that marks the servers of this home; servers ignore it."""
    return f"{_NAME}={home}"


def find_leftovers(home: Path, running: Iterable[RunningProcess]) -> list[RunningProcess]:
    """Return the processes of this home that no supervisor watches any more.

    The caller holds the home's lock. A process added by `./blogstream run` still has its parent.
    """
    by_pid = {process.pid: process for process in running}
    supervisors = {pid for pid, process in by_pid.items() if _SUPERVISOR in process.argv}
    return [
        process
        for process in by_pid.values()
        if process.leads_session
        and process.parent not in supervisors
        and _belongs_to(process, home)
    ]


def _belongs_to(process: RunningProcess, home: Path) -> bool:
    if process.is_server:
        markers = {f"-D{home_marker(home)}", f"-c{home_marker(home)}"}
        return not markers.isdisjoint(process.argv)
    is_service = (
        process.argv[1:2] == ("-m",) and process.argv[2:3] and process.argv[2].startswith(_SERVICES)
    )
    return bool(is_service) and any(value.startswith(f"{home}/") for value in process.values)


def stop_leftovers(found: Sequence[RunningProcess]) -> None:
    """Stop the services, then the servers they need. Kill those that do not stop in time."""
    _stop([process.pid for process in found if not process.is_server], signal.SIGTERM, within_s=10)
    _stop([process.pid for process in found if process.is_server], signal.SIGINT, within_s=30)


def _stop(pids: Sequence[int], number: signal.Signals, *, within_s: float) -> None:
    for each, deadline_s in ((number, within_s), (signal.SIGKILL, 5)):
        left = [pid for pid in pids if is_running(pid)]
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, each)
        give_up = time.monotonic() + deadline_s
        while any(map(is_running, left)) and time.monotonic() < give_up:
            time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Return whether a process runs. A zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _status(pid)[:1] != ["Z"]


def running_processes() -> Iterator[RunningProcess]:
    for entry in _PROC.glob("[0-9]*"):
        with suppress(OSError, IndexError):  # it has just exited, or belongs to another user
            pid = int(entry.name)
            status, argv = _status(pid), _strings(entry / "cmdline")
            if argv:  # kernel threads and zombies have none
                yield RunningProcess(
                    pid=pid,
                    parent=int(status[1]),
                    leads_session=int(status[3]) == pid,
                    argv=argv,
                    values=frozenset(
                        pair.partition("=")[2] for pair in _strings(entry / "environ")
                    ),
                )


def processes_working_in(folder: Path) -> list[int]:
    """Return the pids of the processes whose working directory is this folder."""
    found, target = [], folder.resolve()
    for entry in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "cwd").readlink() == target and is_running(int(entry.name)):
                found.append(int(entry.name))
    return found


def _status(pid: int) -> list[str]:
    """Return state, parent, process group, session… of a process; empty when /proc lacks it."""
    try:
        return (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _strings(path: Path) -> tuple[str, ...]:
    return (
        tuple(path.read_bytes().decode(errors="surrogateescape").rstrip("\0").split("\0"))
        if path.exists()
        else ()
    )
