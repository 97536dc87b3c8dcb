"""Drift that one metrics process finds is shown by its peers too."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import httpx

from services.metrics.cluster.cluster_stats import ClusterStats, PartitionOwnership
from services.metrics.cluster.latest_reports import LatestReports
from services.metrics.cluster.monitored_values import MonitoredValues
from services.metrics.cluster.peers import Peers, ProcessStats, encode_stats
from services.metrics.counting.rules import aggregate
from services.metrics.reconcile.rules import Drift
from shared.http.responses import JsonResponse
from tests.support.eventually import eventually
from tests.support.metrics_events import DRIFT, NOW, make_local_state


def make_process_stats(drift: Drift | None) -> ProcessStats:
    return ProcessStats(
        partitions=(1,),
        settled=True,
        total=aggregate.empty(),
        stores_known=0,
        malformed=0,
        stores={},
        drift=drift,
    )


async def shown_drift(*, of_peer: Drift | None, own: Drift | None) -> Drift | None:
    """Return the drift that a process shows after its peer and itself found these."""

    def answer(_: httpx.Request) -> httpx.Response:
        body = encode_stats(make_process_stats(of_peer), LatestReports(silence_s=10))
        return httpx.Response(200, content=bytes(JsonResponse(body).body))

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        reports = LatestReports(silence_s=10)
        peers = Peers(client, addresses=lambda: ["http://peer"], reports=reports)
        cluster = ClusterStats(
            local=make_local_state(),
            peers=peers,
            monitored=MonitoredValues(drift=own),
            ownership=lambda: PartitionOwnership(partitions=(0,), settled=True),
        )
        polling = asyncio.create_task(peers.poll_until_cancelled())
        await eventually(peers.known_stats)
        polling.cancel()
        assert cluster.completeness().monitored == cluster.monitored()
        return cluster.monitored().drift


async def test_all_processes_show_the_latest_drift() -> None:
    assert await shown_drift(of_peer=DRIFT, own=None) == DRIFT
    assert await shown_drift(of_peer=None, own=DRIFT) == DRIFT
    assert await shown_drift(of_peer=None, own=None) is None
    later = replace(DRIFT, at=NOW + timedelta(seconds=1), jobs=0)
    assert await shown_drift(of_peer=DRIFT, own=later) == later
    assert await shown_drift(of_peer=later, own=DRIFT) == later
