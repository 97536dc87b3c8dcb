"""The home: one folder that holds all that a run leaves. Two homes with different ports run side by side."""

import fcntl
import os
import random
import shlex
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from sandbox.system import leftovers
from shared.domain.errors import Unavailable

ROOT = Path(__file__).resolve().parents[2]
"""The project's root: where `./blogstream` lies."""

is_running = leftovers.is_running


class _Held(Exception):
    """Another process holds the home."""


@dataclass(frozen=True, slots=True)
class Home:
    """The paths of one home."""

    path: Path

    @property
    def env_file(self) -> Path:
        return self.path / "env"

    @property
    def postgres(self) -> Path:
        return self.path / "postgres"

    @property
    def kafka(self) -> Path:
        return self.path / "kafka"

    @property
    def posts(self) -> Path:
        return self.path / "posts"

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics"

    @property
    def log(self) -> Path:
        return self.path / "logs" / "app.log"

    @property
    def state_file(self) -> Path:
        return self.path / "run.json"

    @property
    def extra(self) -> Path:
        """One file for each process started beside the system."""
        return self.path / "extra"

    def prepare(self) -> "Home":
        """Make the folder, and end what a killed system left running in it.

        `Unavailable` with one line when it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise Unavailable(
                f"cannot write to the home {self.path}: {error.strerror}; set BLOGSTREAM_HOME to another folder"
            ) from None
        self.end_leftovers()
        return self

    def end_leftovers(self) -> bool:
        """End what a killed system left running here, and say so. Whether there was anything."""
        try:
            with self._held():
                found = leftovers.of(self.path, leftovers.running())
                if found:
                    named = ", ".join(f"{process.name} (pid {process.pid})" for process in found)
                    print(
                        f"ending what a killed system left running: {named}",
                        file=sys.stderr,
                        flush=True,
                    )
                    leftovers.end(found)
        except (_Held, OSError):  # somebody's system runs here, or there is no home yet
            return False
        return bool(found)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the home for one system; the lock goes with the process, however it ends."""
        try:
            with self._held():
                yield
        except _Held:
            raise Unavailable(
                f"a system is already running in {self.path}; `./blogstream down` stops it,"
                " or set BLOGSTREAM_HOME to another folder"
            ) from None

    @contextmanager
    def _held(self) -> Iterator[None]:
        with (self.path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _Held from None
            yield

    def read_state(self) -> dict[str, Any]:
        """What the running supervisor last wrote; empty when nothing runs here."""
        return read_json(self.state_file)

    def read_env(self) -> dict[str, str]:
        """The variables of the env file; empty when there is none."""
        try:
            lines = self.env_file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        pairs = (
            line.removeprefix("export ").partition("=")
            for line in lines
            if line.startswith("export ")
        )
        return {name: "".join(shlex.split(value)) for name, _, value in pairs}

    def write_env(self, variables: Mapping[str, str]) -> None:
        """A file to `source`, readable by its owner alone: it holds a key."""
        text = "".join(
            f"export {name}={shlex.quote(value)}\n" for name, value in sorted(variables.items())
        )
        write_atomically(self.env_file, text.encode(), mode=0o600)


def current_home(environ: Mapping[str, str] = os.environ) -> Home:
    chosen = environ.get("BLOGSTREAM_HOME")
    return Home(Path(chosen).expanduser().resolve() if chosen else ROOT / ".blogstream")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty when the file is missing or was cut half-way."""
    try:
        found = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.touch(mode=mode)
    temporary.write_bytes(content)
    temporary.replace(path)


def free_port() -> int:
    """A free port below the range that the kernel gives to outgoing connections, so that it is free next time too."""
    candidates = iter(random.sample(range(20_000, 30_000), 500))
    return next(port for port in candidates if is_port_free(port))


def is_port_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
