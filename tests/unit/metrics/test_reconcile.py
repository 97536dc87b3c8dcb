"""What the comparison with PostgreSQL says when it cannot be made."""

import asyncio
from typing import Any

import pytest

from sandbox.system.home import free_port
from services.metrics.cluster.monitored_values import MonitoredValues
from services.metrics.counting.rules import aggregate
from services.metrics.reconcile.reconciler import Reconciler
from services.metrics.settings import MetricsSettings
from tests.support.eventually import eventually
from tests.unit.metrics.test_peers import FOUND


@pytest.mark.parametrize("mine", [True, False])
async def test_what_was_found_is_unknown_once_it_cannot_be_looked_for(
    monkeypatch: pytest.MonkeyPatch, *, mine: bool
) -> None:
    async def nothing_was_deleted(_: Any) -> None:
        return None

    monkeypatch.setattr(Reconciler, "_oldest_event", nothing_was_deleted)
    settings = MetricsSettings(
        kafka_bootstrap_servers="localhost:1",
        database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/none",
        reconcile_every_s=0.01,
    )
    monitored = MonitoredValues(drift=FOUND)
    reconciler = Reconciler(settings, total=aggregate.empty, mine=lambda: mine, monitored=monitored)
    running = asyncio.create_task(reconciler.run())
    await eventually(lambda: monitored.drift is None)
    assert not running.done()
    running.cancel()
