"""The comparison with PostgreSQL while it is impossible."""

import asyncio
from typing import Any

import pytest

from sandbox.system.home import free_port
from services.metrics.cluster.monitored_values import MonitoredValues
from services.metrics.counting.rules import aggregate
from services.metrics.reconcile.reconciler import Reconciler
from services.metrics.settings import MetricsSettings
from tests.support.eventually import eventually
from tests.support.metrics_events import DRIFT


@pytest.mark.parametrize("may_compare", [True, False])
async def test_drift_is_unknown_while_no_comparison_is_possible(
    monkeypatch: pytest.MonkeyPatch, *, may_compare: bool
) -> None:
    async def nothing_deleted(_: Any) -> None:
        return None

    monkeypatch.setattr(Reconciler, "_find_oldest_event", nothing_deleted)
    settings = MetricsSettings(
        kafka_bootstrap_servers="localhost:1",
        database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/none",
        reconcile_every_s=0.01,
    )
    monitored = MonitoredValues(drift=DRIFT)
    reconciler = Reconciler(
        settings, total=aggregate.empty, may_compare=lambda: may_compare, monitored=monitored
    )
    comparing = asyncio.create_task(reconciler.compare_periodically())
    await eventually(lambda: monitored.drift is None)
    assert not comparing.done()
    comparing.cancel()
