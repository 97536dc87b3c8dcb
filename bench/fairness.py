"""Runs every scheduling policy through every acceptance scenario in the simulated world."""

from bench.result import Ratio, Result
from bench.simulation.policies import POLICIES
from bench.simulation.scenarios import build_scenarios


def run() -> Result:
    rows, ratios = [], []
    for scenario in build_scenarios():
        numbers = {name: scenario.evaluate(policy) for name, policy in POLICIES.items()}
        cells = [
            f"{number:.3f}{'' if scenario.meets_bar(number) else ' ✗'}"
            for number in numbers.values()
        ]
        rows.append([f"{scenario.name}: {scenario.question}", scenario.bar, *cells])
        ours = numbers["blogstream"]
        ratios.append(
            Ratio(
                name=scenario.name, measured=ours, target=scenario.bar, met=scenario.meets_bar(ours)
            )
        )
    return Result(
        question="How fair is the queue, compared with common policies? (✗: beyond the bar)",
        header=["scenario", "bar", *POLICIES],
        rows=rows,
        ratios=ratios,
    )
