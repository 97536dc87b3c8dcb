"""What a killed system left running in its home: told by what each process was started with, ended before a new start.

Reads /proc, so it sees nothing but on Linux; elsewhere a leftover shows itself as a taken port, told in one line.
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
class Process:
    """A running process, as far as we may look into it."""

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


def mark(home: Path) -> str:
    """The setting by which a server of this home is known: it means nothing to the server itself."""
    return f"{_NAME}={home}"


def of(home: Path, running: Iterable[Process]) -> list[Process]:
    """Those that a supervisor of this home started and that no supervisor watches any more.

    Whoever asks holds the home's lock; a process added by `./blogstream run` still has its own parent.
    """
    known = {process.pid: process for process in running}
    watched = {pid for pid, process in known.items() if _SUPERVISOR in process.argv}
    return [
        process
        for process in known.values()
        if process.leads_session and process.parent not in watched and _belongs_to(process, home)
    ]


def _belongs_to(process: Process, home: Path) -> bool:
    if process.is_server:
        return any(argument in (f"-D{mark(home)}", f"-c{mark(home)}") for argument in process.argv)
    is_service = (
        process.argv[1:2] == ("-m",) and process.argv[2:3] and process.argv[2].startswith(_SERVICES)
    )
    return bool(is_service) and any(value.startswith(f"{home}/") for value in process.values)


def end(found: Sequence[Process]) -> None:
    """Stop the services, then the servers they need; whoever does not stop in time is killed."""
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
    """Whether it runs. One that has ended and that nobody has collected yet does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _status(pid)[:1] != ["Z"]


def running() -> Iterator[Process]:
    for entry in _PROC.glob("[0-9]*"):
        with suppress(OSError, IndexError):  # it ended while we looked, or is another user's
            pid = int(entry.name)
            status, argv = _status(pid), _strings(entry / "cmdline")
            if argv:  # neither of the kernel nor a zombie
                yield Process(
                    pid=pid,
                    parent=int(status[1]),
                    leads_session=int(status[3]) == pid,
                    argv=argv,
                    values=frozenset(
                        pair.partition("=")[2] for pair in _strings(entry / "environ")
                    ),
                )


def working_in(folder: Path) -> list[int]:
    """The processes whose working directory is this folder."""
    found, wanted = [], folder.resolve()
    for entry in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "cwd").readlink() == wanted and is_running(int(entry.name)):
                found.append(int(entry.name))
    return found


def _status(pid: int) -> list[str]:
    """State, parent, process group, session, and so on; empty where there is no such process or no /proc."""
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
