"""A world a test: topics and a database of its own on the session's servers."""

from collections.abc import AsyncIterator

import pytest

from tests.integration.world import World, a_world


@pytest.fixture
async def world(kafka: str, topic_prefix: str, database: str) -> AsyncIterator[World]:
    async with a_world(kafka, topic_prefix, database) as made:
        yield made
