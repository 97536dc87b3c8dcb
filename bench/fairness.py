"""How fair is the order, beside what others use? The acceptance scenarios under a virtual clock, each order in each."""

from bench.result import Ratio, Result
from bench.simulation.policies import POLICIES
from bench.simulation.scenarios import SCENARIOS


def run() -> Result:
    rows, ratios = [], []
    for scenario in SCENARIOS:
        numbers = {name: scenario.number(policy) for name, policy in POLICIES.items()}
        cells = [
            f"{number:.3f}{'' if scenario.holds(number) else ' ✗'}" for number in numbers.values()
        ]
        rows.append([f"{scenario.name}: {scenario.question}", scenario.bar, *cells])
        ours = numbers["blogstream"]
        ratios.append(
            Ratio(what=scenario.name, seen=ours, bar=scenario.bar, held=scenario.holds(ours))
        )
    return Result(
        question="How fair is the order, beside what others use? (✗: beyond the bar)",
        header=["scenario", "bar", *POLICIES],
        rows=rows,
        ratios=ratios,
    )
