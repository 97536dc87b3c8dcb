"""`./blogstream bench [NAME]`: runs benchmarks and writes their tables to bench/results."""

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
        str | None, typer.Argument(help=f"one of: {', '.join(benchmark_names())}; default: all")
    ] = None,
) -> None:
    """Run benchmarks. Exits with 1 when a ratio misses its target."""
    if name is not None and name not in benchmark_names():
        raise Unavailable(
            f"there is no benchmark {name!r}; there are: {', '.join(benchmark_names())}"
        )
    passed = [_run_benchmark(one) for one in ([name] if name else benchmark_names())]
    raise typer.Exit(0 if all(passed) else 1)


def _run_benchmark(name: str) -> bool:
    print_line(f"{name} …")
    result = import_module(f"bench.{name}").run()
    text = result.as_markdown()
    if result.recorded:
        results = _FOLDER / "results"
        results.mkdir(exist_ok=True)
        Path(results / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
    return bool(result.targets_met)
