"""The whole system as an operator drives it: a home and the commands that act on it.

Imports nothing of the project.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
_PASSED_ON = ("PATH", "HOME", "LANG", "XDG_CACHE_HOME")


def _memory_disk() -> str | None:
    """Return a folder in memory if it has 4 GB of room: servers start faster there."""
    folder = "/dev/shm"
    writable = os.access(folder, os.W_OK)
    return folder if writable and shutil.disk_usage(folder).free > 4 * 2**30 else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_module(
    variables: Mapping[str, str], *arguments: str, expect: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Run `python -m ARGUMENTS` with these variables alone, as an operator without the sandbox."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**_own_variables(), **variables, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert expect is None or done.returncode == expect, (
        f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    )
    return done


class ServiceProcess:
    """One process of a service without a supervisor, until it is stopped."""

    def __init__(self, variables: Mapping[str, str], service: str, log: Path) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"services.{service}"],
                env={**_own_variables(), **variables, "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _own_variables() -> dict[str, str]:
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


class System:
    """A home and the commands that act on it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = _own_variables() | {
            "BLOGSTREAM_HOME": str(home),
            "PORT": str(free_port()),
            "METRICS_PORT": str(free_port()),
            "STANDIN_OPENAI_LATENCY_MS": "300",
            "STANDIN_REPLICATE_LATENCY_MS": "300",
            "LEASE_S": "6",
            "LEASE_GRACE_S": "1",
            "FORWARD_TIMEOUT_S": "15",
        }

    def command(self, *arguments: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [ROOT / "blogstream", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert expect is None or done.returncode == expect, (
            f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [ROOT / "blogstream", *arguments], env=self.environment, stderr=subprocess.DEVNULL
        )

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.command("status", "--json", expect=None).stdout)
        return found

    def pid(self, name: str) -> int:
        return next(
            int(service["pid"]) for service in self.status()["services"] if service["name"] == name
        )

    def variables(self) -> dict[str, str]:
        lines = (self.home / "env").read_text().splitlines()
        pairs = (line.removeprefix("export ").partition("=") for line in lines)
        return {name: value.strip("'") for name, _, value in pairs}

    def variable(self, name: str) -> str:
        return self.variables()[name]

    def http(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.variable('TEST_TOKEN')}"}
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.environment['PORT']}", headers=headers, timeout=30
        )


@contextmanager
def temporary_home() -> Iterator[Path]:
    """Create a home outside of pytest's folders.

    PostgreSQL runs as another user for root, and pytest's folders are closed to others.
    """
    with tempfile.TemporaryDirectory(
        prefix=f"blogstream-test-{os.getpid()}-", dir=_memory_disk(), ignore_cleanup_errors=True
    ) as name:
        Path(name).chmod(0o711)
        yield Path(name) / "home"


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 120) -> Any:
    give_up = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < give_up, f"{what} did not come true within {timeout} s"
        time.sleep(0.2)
    return found
