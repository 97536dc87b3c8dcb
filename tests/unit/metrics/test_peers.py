"""What one metrics process finds out by itself, its peers tell too."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import httpx

from services.metrics.cluster.cluster_stats import PartitionOwnership, ClusterStats
from services.metrics.cluster.latest_reports import LatestReports
from services.metrics.cluster.monitored_values import MonitoredValues
from services.metrics.cluster.peers import ProcessStats, Peers, encode
from services.metrics.counting.rules import aggregate
from services.metrics.reconcile.rules import Drift
from shared.http.responses import JsonResponse
from tests.support.eventually import eventually
from tests.unit.metrics.test_counting_rules import NOW, a_memory

FOUND = Drift(at=NOW, hours=24, jobs=4, cost_nanousd=7)


def a_part(drift: Drift | None) -> ProcessStats:
    return ProcessStats(
        partitions=(1,),
        settled=True,
        total=aggregate.empty(),
        stores_known=0,
        malformed=0,
        stores={},
        drift=drift,
    )


async def drift_told(by_peer: Drift | None, own: Drift | None) -> Drift | None:
    """What a process says whose peer, and which itself, has found this."""

    def answer(_: httpx.Request) -> httpx.Response:
        told = encode(a_part(by_peer), LatestReports(silence_s=10))
        return httpx.Response(200, content=bytes(JsonResponse(told).body))

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        peers = Peers(client, addresses=lambda: ["http://peer"], reports=LatestReports(silence_s=10))
        whole = ClusterStats(
            local=a_memory(),
            peers=peers,
            monitored=MonitoredValues(drift=own),
            owned=lambda: PartitionOwnership(partitions=(0,), settled=True),
        )
        following = asyncio.create_task(peers.follow())
        await eventually(peers.parts)
        following.cancel()
        assert whole.completeness().monitored == whole.monitored()
        return whole.monitored().drift


async def test_the_drift_that_one_process_finds_all_tell() -> None:
    assert await drift_told(FOUND, None) == FOUND
    assert await drift_told(None, FOUND) == FOUND
    assert await drift_told(None, None) is None
    later = replace(FOUND, at=NOW + timedelta(seconds=1), jobs=0)
    assert await drift_told(FOUND, later) == later == await drift_told(later, FOUND), (
        "the one who compares now"
    )
