"""Small simulated worlds for tests."""

import random
from collections.abc import Sequence
from typing import Any

from sandbox.simulation.arrivals import Burst, SteadyLoad, Workload, generate_workload
from sandbox.simulation.settings import (
    IMAGE,
    READS,
    TEXT,
    Latencies,
    TextSize,
    TextSizes,
    WorldSettings,
)
from sandbox.simulation.world import SimulatedWorld

NO_LOAD = SteadyLoad(posts=0, per_minute=1, stores=1)
SIZES = TextSizes(
    outline=TextSize(reserved_tokens=1_000, charged_tokens=800, used_tokens=200, cost=60_000),
    article=TextSize(reserved_tokens=3_700, charged_tokens=3_200, used_tokens=1_100, cost=600_000),
    largest_tokens=7_800,
)


def make_settings(
    *, rpm: float = 600, tpm: float = 10_000_000, image_rpm: float = 600, **changes: Any
) -> WorldSettings:
    """Return settings with ample limits and quick providers, apart from `changes`."""
    defaults: dict[str, Any] = {
        "limits": {
            TEXT: {"requests": rpm, "tokens": tpm},
            IMAGE: {"requests": image_rpm},
            READS: {"reads": 3_000},
        },
        "text_sizes": SIZES,
        "latencies": Latencies(outline_s=0.8, article_s=0.8, image_s=1.5),
    }
    return WorldSettings(**(defaults | changes))


def make_workload(
    bursts: Sequence[Burst] = (), steady: SteadyLoad = NO_LOAD, seed: int = 1
) -> Workload:
    return generate_workload(steady, bursts, random.Random(seed))


def run_world(
    settings: WorldSettings, workload: Workload, *, window_s: float = 60.0
) -> SimulatedWorld:
    """Run a world to its end, with the invariants checked at every event."""
    world = SimulatedWorld(settings, workload, window_s=window_s, check=True)
    world.run()
    return world
