"""A world a test: topics and a database of its own on the session's servers."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.environment import World, a_world
from tests.support.secured_kafka import SecuredKafka, secured


@pytest.fixture
async def world(kafka: str, topic_prefix: str, database: str) -> AsyncIterator[World]:
    async with a_world(kafka, topic_prefix, database) as made:
        yield made


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """Another broker, which asks who is there."""
    with secured(tmp_path_factory.mktemp("secured")) as running:
        yield running


@pytest.fixture
async def secured_world(
    broker: SecuredKafka, topic_prefix: str, database: str
) -> AsyncIterator[World]:
    async with a_world(broker.named, topic_prefix, database, **broker.as_user()) as made:
        yield made
