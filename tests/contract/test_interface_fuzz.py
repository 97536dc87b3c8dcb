"""The interface under requests that its own description allows, and under such that it does not: no fault of ours, no
answer that is not described, and every job that was accepted is accounted for.

BLOGSTREAM_FUZZ_EXAMPLES says how many requests an operation gets: 120, unless it is set, are over 2,000 in all, which
take about 40 seconds; 700 are some 10,000.
"""

import asyncio
import os
import re
import sys
from functools import partial
from pathlib import Path

import pytest

from shared.domain.api_keys import create_operator_key
from shared.domain.messages import BlogRequested
from shared.kafka.topics import REQUESTS
from tests.support.backend import open_backend
from tests.support.eventually import eventually
from tests.support.ingest import start_ingest
from tests.support.scheduler import has_job_count, start_scheduler

pytestmark = pytest.mark.timeout(1_800)

_CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "missing_required_header",
    "ignored_auth",
)
_NOT_THESE = "/events$|/metrics$|/stats$"
"""A stream goes on until its job ends, and there is no metrics service to pass its answers on."""


async def test_no_fault_no_undescribed_answer_and_nothing_lost(
    kafka: str, topic_prefix: str, database: str, tmp_path: Path
) -> None:
    """With a store's key, and a third as often with an operator's, to whom other ways are open."""
    examples = int(os.environ.get("BLOGSTREAM_FUZZ_EXAMPLES", "120"))
    async with (
        open_backend(kafka, topic_prefix, database) as backend,
        start_scheduler(backend, database, max_pending_per_store=100_000),
    ):
        async with start_ingest(backend, database, tmp_path) as ingest:
            operator = await create_operator_key(backend.database, "ada")
            for key, times in ((ingest.key, examples * 3 // 4), (operator, examples // 4)):
                await _fuzzed(f"{ingest.http.base_url}/openapi.json", key, times, tmp_path)
        accepted = {
            message.id
            for _, message in await backend.read_records(REQUESTS)
            if isinstance(message, BlogRequested)
        }
        assert len(accepted) > 50
        await eventually(partial(has_job_count, backend, len(accepted)), timeout=60)


async def _fuzzed(url: str, key: str, times: int, folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "schemathesis",
        "run",
        url,
        "-H",
        f"Authorization: Bearer {key}",
        "--max-examples",
        str(times),
        "--seed",
        "1",
        "--checks",
        ",".join(_CHECKS),
        "--exclude-path-regex",
        _NOT_THESE,
        "--continue-on-failure",
        "--no-color",
        "--phases",
        "examples,coverage,fuzzing",
        "--generation-database",
        "none",
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said[-6_000:]
    generated = re.search(r"(\d+) generated", said)
    assert generated is not None, said[-2_000:]
    assert int(generated[1]) >= 8 * times, "nearly every operation got its share"
    print(said[said.rfind("Test cases") :])
