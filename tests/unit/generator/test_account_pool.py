"""A waiting call moves to the account whose permit comes first."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from services.generator.providers.accounts import pool
from services.generator.providers.accounts.choice import AccountState
from services.generator.quota.rules import Permit, Reservation
from shared.domain.errors import Transient


def make_permit(provider: str) -> Permit:
    return Permit(
        provider=provider,
        partition=0,
        granted_at=datetime.now(UTC),
        reservation=Reservation(needs={"requests": 1}, requested_at=0),
    )


@dataclass
class FakeAccounts:
    """Accounts whose waits a test sets. Waiting calls end when `grant` or `reject` is called."""

    waits: dict[str, float]
    down: set[str] = field(default_factory=set)
    lines: dict[str, "asyncio.Future[Permit]"] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def states(self) -> dict[str, AccountState]:
        return {
            name: AccountState(name=name, serves=name not in self.down, wait_s=wait)
            for name, wait in self.waits.items()
        }

    async def acquire(self, name: str) -> Permit:
        self.lines[name] = asyncio.get_running_loop().create_future()
        try:
            return await self.lines[name]
        except asyncio.CancelledError:
            self.left.append(name)
            raise

    async def wait_in_line(self, name: str) -> None:
        async with asyncio.timeout(5):
            while name not in self.lines:
                await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def _reconsider_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_RECONSIDER_EVERY_S", 0.005)


async def test_call_moves_to_an_account_that_becomes_much_faster() -> None:
    accounts = FakeAccounts({"a": 4, "b": 9})
    call = asyncio.create_task(pool.acquire_first(accounts.states, accounts.acquire))
    await accounts.wait_in_line("a")
    accounts.waits["b"] = 1
    await accounts.wait_in_line("b")
    accounts.lines["b"].set_result(make_permit("b"))
    assert (await call).provider == "b"
    assert accounts.left == ["a"]


async def test_call_of_a_rejected_line_goes_to_the_other_account() -> None:
    accounts = FakeAccounts({"a": 0, "b": 9})
    call = asyncio.create_task(pool.acquire_first(accounts.states, accounts.acquire))
    await accounts.wait_in_line("a")
    accounts.down.add("a")
    accounts.lines["a"].set_exception(Transient("circuit opened"))
    await accounts.wait_in_line("b")
    accounts.lines["b"].set_result(make_permit("b"))
    assert (await call).provider == "b"


async def test_error_of_the_last_account_is_raised() -> None:
    accounts = FakeAccounts({"a": 0, "b": 9})
    call = asyncio.create_task(pool.acquire_first(accounts.states, accounts.acquire))
    await accounts.wait_in_line("a")
    accounts.down |= {"a", "b"}
    accounts.lines["a"].set_exception(Transient("no account"))
    with pytest.raises(Transient, match="no account"):
        await call


async def test_cancelled_call_leaves_the_line() -> None:
    accounts = FakeAccounts({"a": 0, "b": 9})
    call = asyncio.create_task(pool.acquire_first(accounts.states, accounts.acquire))
    await accounts.wait_in_line("a")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(0)
    assert accounts.left == ["a"]
