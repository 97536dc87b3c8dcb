"""The resolver bounds abandoned lookups, and they delay neither others nor the process's exit."""

import asyncio
import subprocess
import sys

import pytest

from services.ingest.webhooks.resolver import HostResolver


async def test_resolver_returns_addresses_or_raises() -> None:
    resolver = HostResolver()
    assert await resolver.resolve("shop", "127.0.0.1", 443) == ["127.0.0.1"]
    assert set(await resolver.resolve("shop", "localhost", 443)) <= {"127.0.0.1", "::1"}
    with pytest.raises(UnicodeError):
        await resolver.resolve("shop", "a..b", 443)
    assert await asyncio.gather(*(resolver.resolve("shop", "127.0.0.1", 443) for _ in range(4))), (
        "ended lookups no longer count"
    )


_ENDLESS_LOOKUPS = """
import asyncio, socket, threading
from services.ingest.webhooks.resolver import HostResolver

socket.getaddrinfo = lambda *args, **kwargs: threading.Event().wait()

async def main():
    lookups = [
        asyncio.ensure_future(HostResolver().resolve("shop", "slow.example", 443))
        for _ in range(3)
    ]
    await asyncio.sleep(0)
    for lookup in lookups:
        lookup.cancel()
    print(await asyncio.gather(*lookups, return_exceptions=True))

asyncio.run(main())
"""


def test_endless_lookup_does_not_delay_process_exit() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _ENDLESS_LOOKUPS],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert ended.stdout.count("CancelledError") == 3
