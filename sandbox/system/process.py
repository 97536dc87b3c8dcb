"""One child process: started in a group of its own, its lines read, its readiness awaited, its end noticed."""

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
class Spec:
    """What to run and how to know that it is ready: a text in its log, or a check that turns true."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    ready_line: str | None = None
    ready_check: Callable[[], Coroutine[None, None, bool]] | None = None
    ready_within_s: float = 90
    stop_within_s: float = 45
    """Longer than a worker needs to finish or hand back its jobs."""
    stop_signal: signal.Signals = signal.SIGTERM
    user: str | None = None
    """Run as this user (only root may): PostgreSQL refuses to run as root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """A process that ended without being asked to."""

    name: str
    pid: int
    code: int
    lines: tuple[str, ...]

    def how(self) -> str:
        return (
            f"was killed by {signal.Signals(-self.code).name}"
            if self.code < 0
            else f"exited with {self.code}"
        )

    def story(self) -> str:
        last = "".join(f"\n    {line}" for line in self.lines) or " (none)"
        return f"{self.name} (pid {self.pid}) {self.how()}; its last lines:{last}"


def _group(user: str) -> int:
    return pwd.getpwnam(user).pw_gid


class Child:
    """A running (or ended) child. `start` returns once it is ready."""

    def __init__(self, spec: Spec, log: RunLog) -> None:
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
        """Start it and wait until it is ready; `Unavailable` when it ends before or takes too long."""
        self._line_seen.clear()
        self._process = await asyncio.create_subprocess_exec(
            *self.spec.argv,
            env=dict(self.spec.env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            user=self.spec.user,
            group=self.spec.user and _group(self.spec.user),
            extra_groups=[] if self.spec.user else None,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which then stops all in order
            limit=1024 * 1024,
        )
        self._reader = asyncio.create_task(self._read(self._process), name=f"log of {self.name}")
        ready = asyncio.create_task(self._ready(), name=f"readiness of {self.name}")
        ended = asyncio.create_task(self.died(), name=f"end of {self.name}")
        done, pending = await asyncio.wait(
            {ready, ended}, timeout=self.spec.ready_within_s, return_when=asyncio.FIRST_COMPLETED
        )
        for task in pending:
            task.cancel()
        if ended in done:
            raise Unavailable(ended.result().story())
        if ready not in done:
            await self.stop()
            raise Unavailable(
                f"{self.name} was not ready within {self.spec.ready_within_s:g} s; see the log"
            )
        await ready

    async def died(self) -> Death:
        """Wait until the process has ended and all its lines were read."""
        assert self._process is not None
        assert self._reader is not None
        code = await self._process.wait()
        await asyncio.wait({self._reader}, timeout=2)  # a grandchild may hold the pipe open
        return Death(name=self.name, pid=self._process.pid, code=code, lines=tuple(self._lines))

    async def stop(self) -> int:
        """SIGTERM, then SIGKILL to the whole group when it takes too long. The exit code."""
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

    async def _ready(self) -> None:
        if self.spec.ready_line is not None:
            await self._line_seen.wait()
        while self.spec.ready_check is not None and not await self.spec.ready_check():
            await asyncio.sleep(0.1)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while raw := await process.stdout.readline():
            line = raw.decode(errors="replace").rstrip()
            self._lines.append(line)
            self._log.write(self.name, line)
            if self.spec.ready_line is not None and self.spec.ready_line in line:
                self._line_seen.set()
