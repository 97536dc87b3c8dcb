"""The HTTP interface under generated requests, valid and invalid by its OpenAPI document.

No answer is a server error or missing in the document, and every accepted job is admitted.
BLOGSTREAM_FUZZ_EXAMPLES sets the requests for each operation. The default of 120 makes over 2,000
requests in about 40 seconds; 700 make about 10,000.
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
_EXCLUDED_PATHS = "/events$|/metrics$|/stats$"
"""A stream lasts until its job ends, and no metrics service answers here."""


async def test_generated_requests_get_documented_answers(
    kafka: str, topic_prefix: str, database: str, tmp_path: Path
) -> None:
    """A quarter of the requests use an operator's key, which allows other paths."""
    examples = int(os.environ.get("BLOGSTREAM_FUZZ_EXAMPLES", "120"))
    async with (
        open_backend(kafka, topic_prefix, database) as backend,
        start_scheduler(backend, database, max_pending_per_store=100_000),
    ):
        async with start_ingest(backend, database, tmp_path) as ingest:
            operator = await create_operator_key(backend.database, "ada")
            for key, times in ((ingest.key, examples * 3 // 4), (operator, examples // 4)):
                await _send_generated_requests(
                    f"{ingest.http.base_url}/openapi.json", key, times, tmp_path
                )
        accepted = {
            message.id
            for _, message in await backend.read_records(REQUESTS)
            if isinstance(message, BlogRequested)
        }
        assert len(accepted) > 50
        await eventually(partial(has_job_count, backend, len(accepted)), timeout=60)


async def _send_generated_requests(url: str, key: str, examples: int, folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "schemathesis",
        "run",
        url,
        "-H",
        f"Authorization: Bearer {key}",
        "--max-examples",
        str(examples),
        "--seed",
        "1",
        "--checks",
        ",".join(_CHECKS),
        "--exclude-path-regex",
        _EXCLUDED_PATHS,
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
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output[-6_000:]
    generated = re.search(r"(\d+) generated", output)
    assert generated is not None, output[-2_000:]
    assert int(generated[1]) >= 8 * examples, "nearly every operation got its requests"
    print(output[output.rfind("Test cases") :])
