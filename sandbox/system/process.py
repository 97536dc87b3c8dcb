"""Runs a child process in its own session: reads its output, awaits readiness, detects its exit."""

import asyncio
import os
import pwd
import signal
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass

from sandbox.system.run_log import RunLog
from shared.domain.errors import Unavailable

_KEPT_LINES = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """A command and its readiness condition: a text in its output, or a check that turns true."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    ready_line: str | None = None
    ready_check: Callable[[], Coroutine[None, None, bool]] | None = None
    ready_within_s: float = 90
    stop_within_s: float = 45
    """Longer than a worker needs to drain."""
    stop_signal: signal.Signals = signal.SIGTERM
    user: str | None = None
    """The user to run as (root only): PostgreSQL refuses to run as root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessExit:
    """The unexpected exit of a process, with its last lines of output."""

    name: str
    pid: int
    code: int
    lines: tuple[str, ...]

    def cause(self) -> str:
        if self.code < 0:
            return f"was killed by {signal.Signals(-self.code).name}"
        return f"exited with {self.code}"

    def describe(self) -> str:
        last = "".join(f"\n    {line}" for line in self.lines) or " (none)"
        return f"{self.name} (pid {self.pid}) {self.cause()}; its last lines:{last}"


def _primary_group(user: str) -> int:
    return pwd.getpwnam(user).pw_gid


class ChildProcess:
    """A child process that can be started, watched and stopped."""

    def __init__(self, spec: ProcessSpec, log: RunLog) -> None:
        self.spec = spec
        self.name = spec.name
        self._log = log
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._line_seen = asyncio.Event()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises `Unavailable` when it exits first or is not ready within `ready_within_s`.
        """
        self._line_seen.clear()
        self._process = await asyncio.create_subprocess_exec(
            *self.spec.argv,
            env=dict(self.spec.env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            user=self.spec.user,
            group=self.spec.user and _primary_group(self.spec.user),
            extra_groups=[] if self.spec.user else None,
            start_new_session=True,  # Ctrl-C reaches only the supervisor, which stops all in order
            limit=1024 * 1024,
        )
        self._reader = asyncio.create_task(
            self._read_output(self._process), name=f"log of {self.name}"
        )
        ready = asyncio.create_task(self._wait_until_ready(), name=f"readiness of {self.name}")
        ended = asyncio.create_task(self.wait_until_exit(), name=f"end of {self.name}")
        done, pending = await asyncio.wait(
            {ready, ended}, timeout=self.spec.ready_within_s, return_when=asyncio.FIRST_COMPLETED
        )
        for task in pending:
            task.cancel()
        if ended in done:
            raise Unavailable(ended.result().describe())
        if ready not in done:
            await self.stop()
            raise Unavailable(
                f"{self.name} was not ready within {self.spec.ready_within_s:g} s; see the log"
            )
        await ready

    async def wait_until_exit(self) -> ProcessExit:
        """Wait until the process has exited and all its output is read."""
        assert self._process is not None
        assert self._reader is not None
        code = await self._process.wait()
        await asyncio.wait({self._reader}, timeout=2)  # a grandchild may hold the pipe open
        return ProcessExit(
            name=self.name, pid=self._process.pid, code=code, lines=tuple(self._lines)
        )

    async def stop(self) -> int:
        """Stop the process and return its exit code.

        After `stop_within_s` its process group is killed.
        """
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(self.spec.stop_signal)
        try:
            async with asyncio.timeout(self.spec.stop_within_s):
                code = await self._process.wait()
        except TimeoutError:
            self._log.write(self.name, f"did not stop within {self.spec.stop_within_s:g} s: killed")
            os.killpg(self._process.pid, signal.SIGKILL)
            code = await self._process.wait()
        if self._reader is not None:
            await asyncio.wait({self._reader}, timeout=2)
        return code

    async def _wait_until_ready(self) -> None:
        if self.spec.ready_line is not None:
            await self._line_seen.wait()
        while self.spec.ready_check is not None and not await self.spec.ready_check():
            await asyncio.sleep(0.1)

    async def _read_output(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while raw := await process.stdout.readline():
            line = raw.decode(errors="replace").rstrip()
            self._lines.append(line)
            self._log.write(self.name, line)
            if self.spec.ready_line is not None and self.spec.ready_line in line:
                self._line_seen.set()
