"""`./blogstream load` where nothing is accepted: it says what was answered instead, and waits for nothing."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from sandbox.system.home import ROOT
from shared.kafka.topics import CONTROL
from tests.support.backend import Backend
from tests.support.ingest import full_queue, post_until_status, start_ingest

_AT_ONCE_S = 30
"""It would wait for ten minutes; here it starts, sends three requests and ends."""


async def test_a_full_queue_is_told_at_once(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    async with start_ingest(backend, database, tmp_path) as ingest:
        await backend.publish(CONTROL, "shop", full_queue("shop"))
        await post_until_status(ingest, 429)
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
            async with asyncio.timeout(_AT_ONCE_S):
                out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
    told = {one["expectation"]: (one["seen"], one["held"]) for one in json.loads(out)}
    assert process.returncode == 1
    assert told["all 201"] == ("0 of 3, 3 × 429", False)
    assert told["work starts at once"] == ("never", False)
