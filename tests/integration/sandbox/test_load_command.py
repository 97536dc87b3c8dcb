"""`./blogstream load` against a store with closed admission: it reports the 429s at once."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from sandbox.system.home import ROOT
from shared.kafka.topics import CONTROL
from tests.integration.ingest.test_admission import gate, hears
from tests.support.backend import Backend
from tests.support.ingest import start_ingest

_TIMEOUT_S = 30
"""Far less than the ten minutes that the command waits for accepted jobs."""


async def test_load_test_reports_closed_admission_at_once(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    async with start_ingest(backend, database, tmp_path) as ingest:
        await backend.publish(CONTROL, "shop", gate("shop"))
        await hears(ingest, 429)
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
