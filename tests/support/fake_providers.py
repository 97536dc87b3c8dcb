"""The providers' stand-ins as tests use them: addresses, scripted faults, and bills."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from sandbox.system.home import ROOT, free_port


@dataclass(frozen=True, slots=True)
class StandIn:
    """One provider's stand-in."""

    url: str

    def script(self, *faults: dict[str, Any]) -> None:
        """Let the next matching calls fail; see `sandbox.providers.faults`."""
        httpx.post(f"{self.url}/standin/faults", json=list(faults)).raise_for_status()

    def clear_faults(self) -> None:
        httpx.delete(f"{self.url}/standin/faults").raise_for_status()

    @contextmanager
    def latency(self, ms: float) -> Iterator[None]:
        """Delay every answer by `ms` milliseconds within the block."""
        before = httpx.get(f"{self.url}/standin/latency").json()
        httpx.post(f"{self.url}/standin/latency", json={"ms": ms}).raise_for_status()
        try:
            yield
        finally:
            httpx.post(f"{self.url}/standin/latency", json=before).raise_for_status()

    @contextmanager
    def limits(self, **changes: Any) -> Iterator[None]:
        """Change rate limits or the form of the 429 answers within the block."""
        with self._changed("limits", changes):
            yield

    @contextmanager
    def options(self, **changes: Any) -> Iterator[None]:
        """Change options of the stand-in within the block."""
        with self._changed("options", changes):
            yield

    @contextmanager
    def _changed(self, endpoint: str, changes: dict[str, Any]) -> Iterator[None]:
        url = f"{self.url}/standin/{endpoint}"
        before = httpx.get(url).json()
        httpx.post(url, json=changes).raise_for_status()
        try:
            yield
        finally:
            httpx.post(url, json=before).raise_for_status()

    def calls(self, job: object) -> list[dict[str, Any]]:
        """Return the calls of a job: their path, parameters and HTTP status."""
        url = f"{self.url}/standin/calls"
        found: list[dict[str, Any]] = httpx.get(url, params={"job": str(job)}).json()
        return found

    def refused(self) -> dict[str, int]:
        """Return how many calls were refused, by the provider's code."""
        codes: dict[str, int] = httpx.get(f"{self.url}/standin/bill").json()["refused"]
        return codes

    def bill(self, job: object) -> dict[str, Any]:
        """Return the bill of a job: {"calls", "tokens", "steps"}."""
        return self.bills().get(str(job), {"calls": 0, "tokens": 0, "steps": {}})

    def bills(self) -> dict[str, dict[str, Any]]:
        """Return all bills by job."""
        jobs: dict[str, dict[str, Any]] = httpx.get(f"{self.url}/standin/bill").json()["jobs"]
        return jobs

    def traces(self, job: object) -> list[dict[str, str]]:
        """Return the trace context headers of a job's calls."""
        jobs: dict[str, list[dict[str, str]]] = httpx.get(f"{self.url}/standin/traces").json()
        return jobs.get(str(job), [])

    def rejected(self) -> int:
        return int(httpx.get(f"{self.url}/standin/bill").json()["rejected"])


@dataclass(frozen=True, slots=True)
class StandIns:
    openai: StandIn
    replicate: StandIn


@contextmanager
def start_fake_providers(**variables: str) -> Iterator[StandIns]:
    """Start both stand-ins in one process; `variables` are their settings."""
    ports = {"STANDIN_OPENAI_PORT": str(free_port()), "STANDIN_REPLICATE_PORT": str(free_port())}
    quick = {"STANDIN_OPENAI_LATENCY_MS": "20", "STANDIN_REPLICATE_LATENCY_MS": "30"}
    models = {"STANDIN_OPENAI_MODELS": "m", "STANDIN_REPLICATE_MODELS": "a/b"}
    base = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    environment = base | quick | models | ports | variables
    process = subprocess.Popen(
        (sys.executable, "-m", "sandbox.providers"), env=environment, stdout=subprocess.DEVNULL
    )
    try:
        urls = [f"http://127.0.0.1:{port}" for port in ports.values()]
        give_up = time.monotonic() + 30
        while not all(_answers(url) for url in urls):
            assert process.poll() is None, "the stand-ins ended"
            assert time.monotonic() < give_up, "the stand-ins did not answer"
            time.sleep(0.05)
        yield StandIns(*map(StandIn, urls))
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
