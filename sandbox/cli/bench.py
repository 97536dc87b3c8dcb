"""`./blogstream bench [NAME]`: benchmarks, each a table and judged ratios, written to bench/results."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from sandbox.cli.common import print_line
from sandbox.system.home import ROOT
from shared.domain.errors import Unavailable

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_FOLDER = ROOT / "bench"
_NO_BENCHMARKS = {"__init__", "result", "servers"}


def benchmark_names() -> list[str]:
    return sorted(path.stem for path in _FOLDER.glob("*.py") if path.stem not in _NO_BENCHMARKS)


@application.command()
def bench(
    name: Annotated[
        str | None, typer.Argument(help=f"one of: {', '.join(benchmark_names())}; all when left out")
    ] = None,
) -> None:
    """Run benchmarks. Exit 1 when a ratio is beyond its bar."""
    if name is not None and name not in benchmark_names():
        raise Unavailable(f"there is no benchmark {name!r}; there are: {', '.join(benchmark_names())}")
    held = [_run(chosen) for chosen in ([name] if name else benchmark_names())]
    raise typer.Exit(0 if all(held) else 1)


def _run(name: str) -> bool:
    print_line(f"{name} …")
    result = import_module(f"bench.{name}").run()
    text = result.as_markdown()
    if result.recorded:
        results = _FOLDER / "results"
        results.mkdir(exist_ok=True)
        Path(results / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
    return bool(result.held)
