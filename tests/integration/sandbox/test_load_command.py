"""`./blogstream load` against a store with closed admission: it reports the 429s at once."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from sandbox.system.home import ROOT
from shared.domain.messages import AdmissionState
from shared.kafka.topics import CONTROL
from tests.support.backend import Backend
from tests.support.eventually import eventually
from tests.support.ingest import Ingest, start_ingest

_TIMEOUT_S = 30
"""Far less than the ten minutes that the command waits for accepted jobs."""


def closed_admission(store: str) -> AdmissionState:
    return AdmissionState(
        store=store, closed=True, reason="queue-full", retry_after_s=41.5, at=datetime.now(UTC)
    )


async def is_refused(ingest: Ingest) -> bool:
    answer = await ingest.post({"sourceType": "keyword", "sourceId": "tea"})
    return answer.status_code == 429


async def test_load_test_reports_closed_admission_at_once(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    async with start_ingest(backend, database, tmp_path) as ingest:
        await backend.publish(CONTROL, "shop", closed_admission("shop"))
        await eventually(partial(is_refused, ingest), timeout=10, what="a 429")
        environment = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": database,
            "BLOGSTREAM_HOME": str(tmp_path / "home"),
            "TEST_TOKEN": ingest.key,
            "PORT": str(ingest.http.base_url.port),
        }
        command = (
            sys.executable,
            "-m",
            "sandbox.cli",
            "load",
            "--requests",
            "3",
            "--interval",
            "0",
            "--json",
        )
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, cwd=ROOT, stdout=PIPE
        )
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
    checks = {one["expectation"]: (one["seen"], one["held"]) for one in json.loads(out)}
    assert process.returncode == 1
    assert checks["all 201"] == ("0 of 3, 3 × 429", False)
    assert checks["work starts at once"] == ("never", False)
