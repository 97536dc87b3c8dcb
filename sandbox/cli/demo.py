"""`./blogstream demo`: starts everything, writes posts for several stores and shows the result."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sandbox.capacity import STANDIN_BLOG, USUAL_BLOG, estimate_run
from sandbox.cli.common import WAIT_FACTOR, describe_run, print_line, run_until_signal
from sandbox.cli.doctor import check_real_providers
from sandbox.cli.up import start_detached
from sandbox.demo.run import DemoResult, run_demo
from sandbox.demo.stores import DemoStore, built_in_stores, store_from_export
from sandbox.limits import limits_of
from sandbox.system import system
from sandbox.system.environment import choose_ports, describe_providers, read_standins
from sandbox.system.home import Home, current_home
from shared.domain.errors import Unavailable
from shared.domain.job import ENDED, Status

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_STUCK_AFTER_S = 120.0
"""The demo ends as stuck when no job changes its status for so long, or for longer than the rate
limits explain: with a small account all jobs may wait for their second call.
"""


@application.command()
def demo(
    csv: Annotated[
        list[Path] | None, typer.Option(help="a Shopify product export; one file per store")
    ] = None,
    generators: Annotated[int, typer.Option(min=1, max=24, help="number of workers")] = 1,
    keep: Annotated[
        bool, typer.Option("--keep", help="leave everything running afterwards")
    ] = False,
) -> None:
    """Start everything, write posts for stores of unequal size, and show the wait of each store.

    Exits with 0 only if every job ended DONE.
    """
    stores = _read_exports(csv) if csv else built_in_stores()
    home = current_home().prepare()
    for line in describe_providers(os.environ):
        print_line(line)
    check_real_providers(os.environ, must_work=True)
    if keep:
        start_detached(home, ["up", "--any-port", "--generators", str(generators)])
        result = asyncio.run(_run_with_progress(home, home.read_env(), stores))
        dashboard = home.read_state()["urls"]["dashboard"]
        print_line(
            f"still running; the dashboard is on {dashboard}; stop it with `./blogstream down`"
        )
    else:
        result = _run_and_stop(home, generators, stores)
    _print_result(home, result)
    raise typer.Exit(0 if result.all_done else 1)


def _read_exports(paths: Sequence[Path]) -> list[DemoStore]:
    stores = [_read_export(path) for path in paths]
    duplicates = [
        name for name, count in Counter(store.name for store in stores).items() if count > 1
    ]
    if duplicates:
        raise Unavailable(
            f"two exports give a store the name {duplicates[0]!r}: rename one of the files"
        )
    return stores


def _read_export(path: Path) -> DemoStore:
    try:
        store = store_from_export(path)
    except UnicodeDecodeError as error:
        raise Unavailable(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"{path}: {error}") from None
    for fault in store.faults:
        print_line(f"{path.name} {fault}: left out")
    if not store.requests:
        raise Unavailable(f"{path}: contains no product that a post can be written about")
    return store


def _run_and_stop(home: Home, generators: int, stores: Sequence[DemoStore]) -> DemoResult:
    """Run the system and the demo in this process. The end of either one ends both."""
    options = system.SystemOptions(
        home=home,
        ports=choose_ports(os.environ, any_free=True),
        generators=generators,
        report=print_line,
    )
    results: list[DemoResult] = []

    async def run_both(stop: asyncio.Event) -> None:
        ready = asyncio.Event()
        running = asyncio.create_task(
            system.run_system(options, stop, started=lambda _: ready.set(), console=None),
            name="system",
        )
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        result: DemoResult | BaseException | None = None
        if ready.is_set() and not stop.is_set():
            work = asyncio.create_task(
                _run_with_progress(home, home.read_env(), stores), name="demo"
            )
            await asyncio.wait({running, work}, return_when=asyncio.FIRST_COMPLETED)
            interrupted = stop.is_set()  # errors of the demo are then a result of the stop
            stop.set()
            work.cancel()
            (outcome,) = await asyncio.gather(work, return_exceptions=True)
            result = None if interrupted else outcome
        await running
        if isinstance(result, BaseException):
            raise result
        if result is not None:
            results.append(result)

    run_until_signal(run_both)
    if not results:
        raise typer.Exit(130)
    return results[0]


async def _run_with_progress(
    home: Home, variables: dict[str, str], stores: Sequence[DemoStore]
) -> DemoResult:
    total, standins = sum(len(store.requests) for store in stores), bool(variables.get("STANDIN"))
    blog = STANDIN_BLOG if standins else USUAL_BLOG
    seconds, limit = estimate_run(total, limits_of(variables), blog)
    print_line(
        f"{total} requests from {len(stores)} stores;"
        f" the dashboard is on http://127.0.0.1:{variables['METRICS_PORT']}/"
    )
    print_line(describe_run(total, seconds, limit))
    with _show_progress(total) as progress:
        return await run_demo(
            home,
            variables,
            stores,
            progress=progress,
            standins=read_standins(variables),
            stuck_after_s=max(_STUCK_AFTER_S, WAIT_FACTOR * seconds),
        )


@contextmanager
def _show_progress(total: int) -> Iterator[Callable[[Counter[Status]], None]]:
    """Show a progress bar on a terminal, else one line per tenth of the jobs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
    )
    is_terminal = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=not is_terminal) as bar:
        task = bar.add_task("writing", total=total, counts="")
        last_tenth = -1

        def update(counts: Counter[Status]) -> None:
            nonlocal last_tenth
            ended = sum(counts[state] for state in ENDED)
            text = " ".join(f"{state.value}={counts[state]}" for state in Status if counts[state])
            bar.update(task, completed=ended, counts=text)
            tenth = ended * 10 // max(total, 1)
            if not is_terminal and tenth != last_tenth:
                last_tenth = tenth
                print_line(f"{ended} of {total} ended: {text}")

        yield update


def _print_result(home: Home, result: DemoResult) -> None:
    total = sum(store.requested for store in result.stores)
    table = Table(title=f"{total} blogs in {result.seconds:.0f} s")
    columns = ("store", "asked", "done", "failed", "wait p50", "wait p95", "tokens", "cost")
    for column in columns:
        table.add_column(column, justify="left" if column == "store" else "right", no_wrap=True)
    for store in result.stores:
        table.add_row(
            store.store,
            str(store.requested),
            str(store.done),
            str(store.failed),
            _seconds(store.wait_p50_s),
            _seconds(store.wait_p95_s),
            f"{store.tokens:,}",
            f"${store.cost_usd:.4f}",
        )
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    for reason, count in result.reasons.most_common(5):
        print(f"failed {count}: {reason}")
    if result.stuck:
        print(f"{result.stuck} jobs had not ended when the demo gave up; the log is {home.log}")
    example = result.posts[0] if result.posts else "none"
    print(f"posts: {home.posts} ({len(result.posts)} pages, for example {example})")
    no_browser = "no screenshot: no Chromium could take one; --keep leaves the dashboard running"
    print(f"dashboard: {result.dashboard_screenshot or no_browser}")
    print(f"interface: {result.docs_screenshot or 'no screenshot; see /docs of ingest'}")
    print(f"log: {home.log}")


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"
