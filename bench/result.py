"""What a benchmark brings: a table, and judged ratios."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """`seen` beside its bar; `held` says whether it is kept."""

    what: str
    seen: float
    bar: str
    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A header row, rows of the same length, and the ratios that are judged."""

    question: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    ratios: Sequence[Ratio]
    recorded: bool = True
    """False for a trial of a part: it is shown, and the record of the whole stays."""

    @property
    def held(self) -> bool:
        return all(ratio.held for ratio in self.ratios)

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
                f"- {ratio.what}: {ratio.seen:.3g} (bar {ratio.bar}{_verdict(ratio)})"
                for ratio in self.ratios
            ),
        ]
        return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _verdict(ratio: Ratio) -> str:
    return "" if ratio.held else ", NOT KEPT"
