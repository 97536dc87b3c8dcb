"""A backend a test: topics and a database of its own on the session's servers."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.backend import Backend, open_backend
from tests.support.secured_kafka import SecuredKafka, start_secured_kafka


@pytest.fixture
async def backend(kafka: str, topic_prefix: str, database: str) -> AsyncIterator[Backend]:
    async with open_backend(kafka, topic_prefix, database) as made:
        yield made


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """Another broker, which asks who is there."""
    with start_secured_kafka(tmp_path_factory.mktemp("start_secured_kafka")) as running:
        yield running


@pytest.fixture
async def secured_backend(
    broker: SecuredKafka, topic_prefix: str, database: str
) -> AsyncIterator[Backend]:
    async with open_backend(
        broker.password_address, topic_prefix, database, **broker.password_settings()
    ) as made:
        yield made
