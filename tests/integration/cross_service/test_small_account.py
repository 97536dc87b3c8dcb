"""A small provider account with two workers: the stand-ins enforce its limits and reject no call.

The limits carry fewer calls at once than the topic has partitions. The image account of six
predictions a minute is the smallest that Replicate has.
"""

from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from pathlib import Path

from shared.domain.messages import EventKind, JobEvent, Need, WorkerReport
from shared.kafka.topics import RESULTS, WORKERS
from tests.support.backend import Backend, make_request
from tests.support.eventually import eventually
from tests.support.fake_providers import start_fake_providers
from tests.support.processes import start_workers
from tests.support.scheduler import start_scheduler

_LIMITS = {"OPENAI_RPM": "15", "OPENAI_TPM": "90000", "REPLICATE_RPM": "6"}
_CARRYING = {"openai/requests": 11, "openai/tokens": 11, "replicate/requests": 6}
"""90,000 tokens carry eleven of the largest calls, so requests are carried by eleven too."""
_JOBS = 7
_QUOTA_MOVED = "this worker's quota has shrunk, and another worker has more"


async def test_small_account_with_two_workers_gets_no_429(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    requests = [make_request(store=f"s{n % 3}", images=n % 2) for n in range(_JOBS)]
    with start_fake_providers(**_LIMITS) as standins:
        async with AsyncExitStack() as services:
            await services.enter_async_context(start_scheduler(backend, database))
            start_worker = await services.enter_async_context(
                start_workers(backend, database, standins, tmp_path)
            )
            for _ in range(2):
                await start_worker(**_LIMITS)
            for request in requests:
                await backend.submit(request)
            done = "SELECT count(*) = $1 FROM blog_generations WHERE status = 'DONE'"
            await eventually(lambda: backend.database.fetchval(done, _JOBS), timeout=200, every=0.5)
        rejected = (standins.openai.rejected(), standins.replicate.rejected())
    assert rejected == (0, 0)
    counted = "SELECT max(attempt - blameless) FROM blog_generations"
    assert await backend.database.fetchval(counted) == 1
    # The second worker's join may return waiting jobs, because quota moves to it.
    assert await _retry_reasons(backend) <= {_QUOTA_MOVED}, "jobs went to a worker without quota"
    await _check_reports(backend)


async def _retry_reasons(backend: Backend) -> set[str | None]:
    """Return why attempts were given back."""
    return {
        message.error
        for _, message in await backend.read_records(RESULTS)
        if isinstance(message, JobEvent) and message.kind is EventKind.RETRY
    }


async def _check_reports(backend: Backend) -> None:
    """Check that the two workers share the carrying partitions, and together own the limit."""
    latest: dict[str, WorkerReport] = {}
    for _, message in await backend.read_records(WORKERS):
        if isinstance(message, WorkerReport) and len(message.partitions) == 12:
            latest[message.worker] = message
    assert len(latest) == 2
    limiters = [limiter for report in latest.values() for limiter in report.limiters]
    owned, shares = Counter[str](), defaultdict[str, float](float)
    for limiter in limiters:
        name = f"{limiter.provider}/{limiter.resource}"
        assert limiter.partitions is not None
        owned[name] += len(limiter.partitions)
        shares[name] += limiter.share / limiter.limit
    assert {name: owned[name] for name in _CARRYING} == _CARRYING
    assert all(0.95 < share <= 1 + 1e-9 for share in shares.values()), shares
    assert {limiter.serves for limiter in limiters} == {Need.TEXT, Need.IMAGES}
