"""A backend for every integration test: its own topics and database on the session's servers."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.backend import Backend, delete_topics, open_backend
from tests.support.secured_kafka import SecuredKafka, start_secured_kafka
from tests.support.servers import server_folder


@pytest.fixture
async def backend(kafka: str, topic_prefix: str, database: str) -> AsyncIterator[Backend]:
    async with open_backend(kafka, topic_prefix, database) as opened:
        yield opened
        await delete_topics(opened.settings)


@pytest.fixture(scope="session")
def broker() -> Iterator[SecuredKafka]:
    """Start a second broker, whose listeners require a password or a certificate."""
    with server_folder() as folder, start_secured_kafka(folder) as running:
        yield running


@pytest.fixture
async def secured_backend(
    broker: SecuredKafka, topic_prefix: str, database: str
) -> AsyncIterator[Backend]:
    async with open_backend(
        broker.password_address, topic_prefix, database, **broker.password_settings()
    ) as opened:
        yield opened
        await delete_topics(opened.settings)
