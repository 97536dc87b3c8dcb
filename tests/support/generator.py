"""Helpers of the generator's tests: settings, leases, permits and example requests."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from services.generator.jobs.repository import GenerationRepository, Lease
from services.generator.quota.rules import Permit, Reservation
from services.generator.settings import GeneratorSettings
from shared.domain.messages import BlogRequested
from shared.kafka.envelope import decode_message
from tests.support.backend import Backend
from tests.support.fake_providers import StandIns

_EXAMPLES = Path(__file__).parents[2] / "shared" / "examples"


def worker_settings(
    *, bootstrap: str, prefix: str, database: str, standins: StandIns, folder: Path, **changes: Any
) -> GeneratorSettings:
    """Build the settings of a worker that calls the stand-ins, with ample rate limits."""
    values: dict[str, Any] = {
        "kafka_bootstrap_servers": bootstrap,
        "kafka_topic_prefix": prefix,
        "database_url": database,
        "db_pool_min": 1,
        "openai_api_key": "sk-x",
        "openai_base_url": f"{standins.openai.url}/v1",
        "openai_rpm": 60_000,
        "openai_tpm": 9e7,
        "replicate_api_token": "r8-x",
        "replicate_base_url": standins.replicate.url,
        "replicate_rpm": 60_000,
        "image_dir": folder,
        "standin": True,
        "drain_s": 20,
    }
    return GeneratorSettings.model_validate(values | changes)


def example_request(**changes: object) -> BlogRequested:
    """Decode the example of `BlogRequested` with some fields changed."""
    name = BlogRequested.TYPE.removeprefix("blogstream.")
    data = orjson.loads((_EXAMPLES / f"{name}.json").read_bytes()) | changes
    request = decode_message(orjson.dumps(data), [("ce_type", BlogRequested.TYPE.encode())])
    assert isinstance(request, BlogRequested)
    return request


def make_permit(partition: int = 3) -> Permit:
    """Build a permit for one request of 700 tokens, granted now."""
    reservation = Reservation(needs={"requests": 1, "tokens": 700}, requested_at=0)
    return Permit(
        provider="openai",
        partition=partition,
        granted_at=datetime.now(UTC),
        reservation=reservation,
    )


async def claim_again(backend: Backend, repository: GenerationRepository, lost: Lease) -> Lease:
    """Requeue a job whose lease is lost, and claim it again."""
    await backend.database.execute(
        "UPDATE blog_generations SET status = 'PENDING' WHERE id = $1", lost.job
    )
    lease = await repository.claim_job(lost.job)
    assert lease is not None
    assert lease.attempt == lost.attempt + 1
    return lease


async def check_spend(backend: Backend) -> dict[str, int]:
    """Return the spend by store; assert that it equals the costs of steps and ended jobs."""

    async def by_store(amounts: str) -> dict[str, int]:
        query = (
            f"SELECT store, sum(cost)::bigint AS cost FROM ({amounts}) AS amounts"
            " GROUP BY 1 HAVING sum(cost) > 0"
        )
        return {row["store"]: row["cost"] for row in await backend.database.fetch(query)}

    spend = await by_store("SELECT instance_id AS store, spent_nanousd AS cost FROM store_spend")
    assert spend == await by_store(
        "SELECT instance_id AS store, step.cost_nanousd AS cost"
        " FROM blog_steps AS step JOIN blog_generations AS job ON job.id = job_id"
    )
    assert spend == await by_store(
        "SELECT instance_id AS store, cost_nanousd AS cost FROM blog_generations"
    )
    return spend
