"""Looking up a host's name: what never ends is given up, and holds up neither others nor the process's end."""

import asyncio
import subprocess
import sys

import pytest

from services.ingest.webhooks.resolver import Resolver


async def test_addresses_are_found_or_a_fault_is_told() -> None:
    resolver = Resolver()
    assert await resolver.addresses("shop", "127.0.0.1", 443) == ["127.0.0.1"]
    assert set(await resolver.addresses("shop", "localhost", 443)) <= {"127.0.0.1", "::1"}
    with pytest.raises(UnicodeError):
        await resolver.addresses("shop", "a..b", 443)
    assert await asyncio.gather(
        *(resolver.addresses("shop", "127.0.0.1", 443) for _ in range(4))
    ), "none is held"


_NEVER = """
import asyncio, socket, threading
from services.ingest.webhooks.resolver import Resolver

socket.getaddrinfo = lambda *about, **more: threading.Event().wait()

async def main():
    looking = [asyncio.ensure_future(Resolver().addresses("shop", "slow.example", 443)) for _ in range(3)]
    await asyncio.sleep(0)
    for one in looking:
        one.cancel()
    print(await asyncio.gather(*looking, return_exceptions=True))

asyncio.run(main())
"""


def test_a_look_up_that_never_ends_does_not_keep_the_process() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _NEVER], check=True, timeout=60, capture_output=True, text=True
    )
    assert ended.stdout.count("CancelledError") == 3
