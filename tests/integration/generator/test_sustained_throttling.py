"""A provider serves fewer calls than configured: no job fails, and few calls are refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.generator import service
from tests.support.backend import Backend, make_request, running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns, start_fake_providers
from tests.support.generator import worker_settings
from tests.support.scheduler import start_scheduler

_SERVED_PER_MINUTE, _CONFIGURED_PER_MINUTE, _JOBS = 120, 6_000, 75
"""Two calls for each job: the last 30 are served at two a second."""


@pytest.fixture(scope="module")
def provider() -> Iterator[StandIns]:
    with start_fake_providers(OPENAI_RPM="60000", OPENAI_TPM="90000000") as standins:
        yield standins


@pytest.mark.parametrize("style", ["plain", "retry-after", "reset", "code-429"])
async def test_throttled_jobs_wait_and_few_calls_are_refused(
    backend: Backend, database: str, provider: StandIns, tmp_path: Path, style: str
) -> None:
    settings = worker_settings(
        bootstrap=backend.settings.kafka_bootstrap_servers,
        prefix=backend.settings.kafka_topic_prefix,
        database=database,
        standins=provider,
        folder=tmp_path,
        images=False,
        openai_rpm=_CONFIGURED_PER_MINUTE,
    )
    requests = [make_request(store=f"s{number % 9}", images=0) for number in range(_JOBS)]
    refused_before = provider.openai.rejected()
    done = "SELECT count(*) = $1 FROM blog_generations WHERE status = 'DONE'"
    with provider.openai.limits(requests=_SERVED_PER_MINUTE, style=style):
        async with (
            start_scheduler(backend, database),
            running_service(lambda stop: service.run_worker(settings, stop, name="worker-1")),
        ):
            for request in requests:
                await backend.submit(request)
            await eventually(lambda: backend.database.fetchval(done, _JOBS), timeout=240, every=0.5)
    calls, refused = 2 * _JOBS, provider.openai.rejected() - refused_before
    assert 0 < refused <= 0.3 * calls
    counted = "SELECT max(attempt - blameless) FROM blog_generations"
    assert await backend.database.fetchval(counted) == 1, "waiting costs no attempt"
