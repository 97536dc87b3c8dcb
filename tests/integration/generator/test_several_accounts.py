"""Several provider accounts in one worker: choice, failover, models and pinned stores.

Two stand-ins are two accounts. Scheduler and worker run with a real broker and database.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.generator import service
from shared.domain.messages import BlogRequested, WorkerReport
from shared.kafka.topics import WORKERS
from tests.support.backend import Backend, make_request, running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIn, StandIns, start_fake_providers
from tests.support.generator import worker_settings
from tests.support.scheduler import start_scheduler

_ACCOUNT = """
[[text]]
name = "{name}"
key = "{variable}"
base_url = "{url}/v1"
model = "gpt-4o-mini"
requests_per_minute = 60_000
tokens_per_minute = {tokens}
"""
_AMPLE_TOKENS = 60_000_000


@pytest.fixture(scope="module")
def second() -> Iterator[StandIn]:
    with start_fake_providers(OPENAI_RPM="60000", OPENAI_TPM="90000000") as both:
        yield both.openai


class TwoAccounts:
    """A scheduler, and a worker with the text accounts `first` and `second`."""

    def __init__(
        self, backend: Backend, database: str, standins: StandIns, second: StandIn, folder: Path
    ) -> None:
        self.backend = backend
        self.first, self.second = standins.openai, second
        self._database = database
        self._standins = standins
        self._folder = folder

    @asynccontextmanager
    async def run(
        self,
        *,
        first: str = "",
        second: str = "",
        stores: str = "",
        second_tokens: int = _AMPLE_TOKENS,
        slots: Sequence[int] = (50,),
    ) -> AsyncIterator[None]:
        """Run with these lines of TOML for the accounts and for the pinned stores.

        `slots` are those of each worker.
        """
        file = self._folder / "providers.toml"
        accounts = (
            ("first", self.first, _AMPLE_TOKENS, first),
            ("second", self.second, second_tokens, second),
        )
        tables = (
            _ACCOUNT.format(
                name=name, variable=f"{name.upper()}_KEY", url=server.url, tokens=tokens
            )
            + more
            for name, server, tokens, more in accounts
        )
        file.write_text("".join(tables) + f"\n[stores]\n{stores}\n")
        settings = partial(
            worker_settings,
            bootstrap=self.backend.settings.kafka_bootstrap_servers,
            prefix=self.backend.settings.kafka_topic_prefix,
            database=self._database,
            standins=self._standins,
            folder=self._folder,
            images=False,
            providers_file=file,
        )
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(start_scheduler(self.backend, self._database))
            for number, jobs in enumerate(slots, start=1):
                run = partial(
                    service.run_worker, settings(concurrent_blogs=jobs), name=f"worker-{number}"
                )
                await stack.enter_async_context(running_service(run))
            yield

    async def write(self, *requests: BlogRequested) -> None:
        """Submit requests, and wait until all jobs are DONE."""
        for request in requests:
            await self.backend.submit(request)
        for request in requests:
            await eventually(
                partial(self.backend.has_status, request.id, "DONE"), what=f"{request.id} DONE"
            )

    def calls(self, *requests: BlogRequested) -> tuple[int, int]:
        """Return the billed calls of these jobs at the first and at the second account."""
        first, second = (
            sum(account.bill(request.id)["calls"] for request in requests)
            for account in (self.first, self.second)
        )
        return first, second


@pytest.fixture
def accounts(
    backend: Backend,
    database: str,
    standins: StandIns,
    second: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[TwoAccounts]:
    for variable in ("FIRST_KEY", "SECOND_KEY"):
        monkeypatch.setenv(variable, f"sk-{variable}")
    yield TwoAccounts(backend, database, standins, second, tmp_path)
    standins.openai.clear_faults()
    second.clear_faults()


def make_requests(count: int, **changes: Any) -> list[BlogRequested]:
    return [make_request(images=0, **changes) for _ in range(count)]


async def test_idle_accounts_share_the_calls_by_weight(accounts: TwoAccounts) -> None:
    requests = make_requests(12)
    async with accounts.run(second="weight = 3"):
        for request in requests:  # one after the other: no account makes calls wait
            await accounts.write(request)
    first, second = accounts.calls(*requests)
    assert first + second == 24
    assert 4 <= first <= 8


async def test_model_and_pinned_store_choose_the_account(accounts: TwoAccounts) -> None:
    async with accounts.run(second="only_on_request = true", stores='"pinned" = "second"'):
        usual, pinned = make_requests(3), make_requests(3, store="pinned")
        await accounts.write(*usual, *pinned)
    assert accounts.calls(*usual) == (6, 0)
    assert accounts.calls(*pinned) == (0, 6)


async def test_pinned_store_finds_the_small_worker_with_its_small_account(
    accounts: TwoAccounts,
) -> None:
    """Partition 0 alone carries the account. Its owner has fewer slots than the other worker."""
    backend = accounts.backend
    async with accounts.run(
        second="only_on_request = true",
        stores='"pinned" = "second"',
        second_tokens=12_000,
        slots=(2, 50),
    ):
        await eventually(partial(_divide_partitions, backend), what="two workers with partitions")
        usual, pinned = make_requests(20), make_requests(1, store="pinned")
        await accounts.write(*usual, *pinned)
        rows = [await backend.row(request.id) for request in pinned]
    assert accounts.calls(*pinned) == (0, 2)
    assert {row["worker"] for row in rows} == {"worker-1"}
    assert all(row["attempt"] == row["blameless"] + 1 for row in rows), "no attempt is counted"
    assert all(row["forward_count"] <= 4 for row in rows)


async def _divide_partitions(backend: Backend) -> bool:
    """Return whether the last reports of two workers name 12 partitions each."""
    reports = [message for _, message in await backend.read_records(WORKERS)]
    last = {report.worker: report for report in reports if isinstance(report, WorkerReport)}
    return [len(report.partitions) for report in last.values()] == [12, 12]


async def test_fallback_serves_while_the_first_account_has_no_money(
    accounts: TwoAccounts,
) -> None:
    async with accounts.run(second="fallback = 1"):
        before = make_requests(3)
        await accounts.write(*before)
        accounts.first.script({"kind": "insufficient_quota", "count": 500})
        during = make_requests(6)
        await accounts.write(*during)
    assert accounts.calls(*before) == (6, 0)
    assert accounts.calls(*during) == (0, 12)
    rows = [await accounts.backend.row(request.id) for request in during]
    assert all(row["attempt"] == row["blameless"] + 1 for row in rows), "no attempt is counted"


async def test_throttled_account_is_passed_over(accounts: TwoAccounts) -> None:
    async with accounts.run():
        accounts.first.script({"kind": "429", "count": 500, "retry_after": 600})
        requests = make_requests(8)
        await accounts.write(*requests)
    assert accounts.calls(*requests) == (0, 16)
