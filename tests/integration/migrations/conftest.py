"""Fixtures of the migrations' tests."""

import asyncio
import uuid
from collections.abc import Iterator

import pytest

from tests.support.servers import execute


@pytest.fixture
def role(postgres: str, database: str) -> Iterator[str]:
    """A login role without rights. Returns its name, which is its password as well."""
    name = f"App-{uuid.uuid4().hex[:8]}"
    asyncio.run(execute(postgres, f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{name}'"))
    yield name
    asyncio.run(execute(database, f'DROP OWNED BY "{name}"'))
    asyncio.run(execute(postgres, f'DROP ROLE "{name}"'))
