"""`./blogstream demo`: the main job, from nothing to finished posts."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sandbox.cli.common import run_until_signal, print_line
from sandbox.cli.up import start_detached
from sandbox.demo import run as demo_run
from sandbox.demo import stores
from sandbox.demo.run import DemoResult
from sandbox.system import system
from sandbox.system.environment import choose_ports, standins_needed
from sandbox.system.home import Home, current_home
from shared.domain.errors import Unavailable
from shared.domain.job import ENDED, Status

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@application.command()
def demo(
    csv: Annotated[
        list[Path] | None, typer.Option(help="a Shopify product export; one store a file")
    ] = None,
    generators: Annotated[int, typer.Option(min=1, max=24, help="generator processes")] = 1,
    keep: Annotated[
        bool, typer.Option("--keep", help="leave everything running afterwards")
    ] = False,
) -> None:
    """Start everything, write posts for stores of very unequal size, and show who waited how long.

    Exit 0 only if every job ended DONE.
    """
    wanted = _exports(csv) if csv else stores.built_in_stores()
    home = current_home().prepare()
    for provider in standins_needed(os.environ):
        print_line(
            f"no key for {provider}: a STAND-IN writes, no AI provider is called and nothing is paid"
        )
    if keep:
        start_detached(home, ["up", "--any-port", "--generators", str(generators)])
        finished = asyncio.run(_run(home, home.read_env(), wanted))
        print_line(
            f"left running, dashboard on {home.read_state()['urls']['dashboard']}; `./blogstream down` stops it"
        )
    else:
        finished = _run_and_stop(home, generators, wanted)
    _show(home, finished)
    raise typer.Exit(0 if finished.all_done else 1)


def _exports(paths: Sequence[Path]) -> list[stores.DemoStore]:
    found = [_export(path) for path in paths]
    twice = [name for name, count in Counter(shop.name for shop in found).items() if count > 1]
    if twice:
        raise Unavailable(
            f"two exports give a store the name {twice[0]!r}: rename one of the files"
        )
    return found


def _export(path: Path) -> stores.DemoStore:
    try:
        shop = stores.store_from_export(path)
    except UnicodeDecodeError as error:
        raise Unavailable(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"{path}: {error}") from None
    for fault in shop.faults:
        print_line(f"{path.name} {fault}: left out")
    if not shop.requests:
        raise Unavailable(f"{path}: holds no product that can be written about")
    return shop


def _run_and_stop(home: Home, generators: int, wanted: Sequence[stores.DemoStore]) -> DemoResult:
    """Run the system and the demo in this process: whatever ends either ends both."""
    plan = system.SystemOptions(
        home=home, ports=choose_ports(os.environ, any_free=True), generators=generators, report=print_line
    )
    outcome: list[DemoResult] = []

    async def both(stop: asyncio.Event) -> None:
        ready = asyncio.Event()
        running = asyncio.create_task(
            system.run_system(plan, stop, started=lambda _: ready.set(), console=None), name="system"
        )
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        finished: DemoResult | BaseException | None = None
        if ready.is_set() and not stop.is_set():
            work = asyncio.create_task(_run(home, home.read_env(), wanted), name="demo")
            await asyncio.wait({running, work}, return_when=asyncio.FIRST_COMPLETED)
            interrupted = (
                stop.is_set()
            )  # whatever the work met then, it met because everything stops
            stop.set()
            work.cancel()
            (found,) = await asyncio.gather(work, return_exceptions=True)
            finished = None if interrupted else found
        await running
        if isinstance(finished, BaseException):
            raise finished
        if finished is not None:
            outcome.append(finished)

    run_until_signal(both)
    if not outcome:
        raise typer.Exit(130)
    return outcome[0]


async def _run(home: Home, variables: dict[str, str], wanted: Sequence[stores.DemoStore]) -> DemoResult:
    total = sum(len(shop.requests) for shop in wanted)
    print_line(
        f"{total} requests from {len(wanted)} stores; dashboard on http://127.0.0.1:{variables['METRICS_PORT']}/"
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("writing", total=total, counts="")
        last_said = -1

        def progress(counts: Counter[Status]) -> None:
            nonlocal last_said
            ended = sum(counts[state] for state in ENDED)
            text = " ".join(f"{state.value}={counts[state]}" for state in Status if counts[state])
            bar.update(task, completed=ended, counts=text)
            if not sys.stderr.isatty() and ended * 10 // max(total, 1) != last_said:
                last_said = ended * 10 // max(total, 1)
                print_line(f"{ended} of {total} ended: {text}")

        return await demo_run.run_demo(
            home, variables, wanted, progress=progress, standins=bool(variables.get("STANDIN"))
        )


def _show(home: Home, finished: DemoResult) -> None:
    table = Table(
        title=f"{sum(s.requested for s in finished.stores)} blogs in {finished.seconds:.0f} s"
    )
    for column in ("store", "asked", "done", "failed", "wait p50", "wait p95", "tokens", "cost"):
        table.add_column(column, justify="left" if column == "store" else "right", no_wrap=True)
    for store in finished.stores:
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
    for reason, count in finished.reasons.most_common(5):
        print(f"failed {count}: {reason}")
    if finished.stuck:
        print(
            f"{finished.stuck} jobs had not ended when nothing moved any more; the log is {home.log}"
        )
    print(
        f"posts: {home.posts} ({len(finished.posts)} pages; one is {finished.posts[0] if finished.posts else 'none'})"
    )
    print(
        f"dashboard: {finished.picture or 'no picture: no Chromium could take one; the page itself needs --keep'}"
    )
    print(f"interface: {finished.docs or 'no picture either: /docs of ingest'}")
    print(f"log: {home.log}")


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"
