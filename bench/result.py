"""The result of a benchmark: a table, and ratios with their targets."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A measured value and its target; `met` is True if the value meets the target."""

    name: str
    measured: float
    target: str
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A header row, rows of the same length, and the ratios."""

    question: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    ratios: Sequence[Ratio]
    recorded: bool = True
    """False for a partial run: its table is printed but not written to bench/results."""

    @property
    def targets_met(self) -> bool:
        return all(ratio.met for ratio in self.ratios)

    def as_markdown(self) -> str:
        lines = [
            f"# {self.question}",
            "",
            _row(self.header),
            _row(["---"] * len(self.header)),
            *map(_row, self.rows),
        ]
        lines += [
            "",
            *(
                f"- {ratio.name}: {ratio.measured:.3g}"
                f" (target {ratio.target}{_failure_mark(ratio)})"
                for ratio in self.ratios
            ),
        ]
        return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _failure_mark(ratio: Ratio) -> str:
    return "" if ratio.met else ", NOT MET"
