"""`./blogstream simulate`: runs the production rules under a virtual clock (docs/scaling.md)."""

import gc
import random
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from math import inf, isfinite
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from sandbox.cli.common import print_line
from sandbox.limits import LimitSettings
from sandbox.simulation.arrivals import (
    Burst,
    SteadyLoad,
    Workload,
    generate_workload,
    read_arrivals,
)
from sandbox.simulation.call_sizes import measure_text_sizes
from sandbox.simulation.results.plot import draw_report
from sandbox.simulation.results.report import (
    SimulationReport,
    format_duration,
    format_report,
    summarize_world,
)
from sandbox.simulation.settings import (
    IMAGE,
    READS,
    TEXT,
    Delays,
    Deploy,
    Latencies,
    Outage,
    WorkerDeaths,
    WorldSettings,
)
from sandbox.simulation.world import SimulatedWorld
from shared.domain.errors import Unavailable
from shared.runtime.settings import AdmissionSettings

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


_Numbers = float | list[float] | None


def _number(least: float = 0.0, most: float = inf) -> dict[str, Any]:
    """Return the arguments of an option that takes finite numbers in this range.

    Typer's `min` and `max` let `nan` pass, and their error does not quote the number.
    """
    wanted = f"finite number of at least {least:g}"
    if most < inf:
        wanted = f"number from {least:g} to {most:g}"

    def check(given: _Numbers) -> _Numbers:
        for number in given if isinstance(given, list) else [given]:
            if number is not None and not (isfinite(number) and least <= number <= most):
                raise typer.BadParameter(f"{number:g} is not a {wanted}")
        return given

    return {"callback": check}


_POSITIVE = _number(least=0.001)
_LOAD = 0.8
"""The default rate, as a part of what the limits allow."""
_PROGRESS_EVERY_S = 2.0
_POSTS = 1_000
_MOST_HOURS = 24 * 31.0
_COARSE_REPORT_S, _COARSE_TURN_S = 1.0, 0.02


class SimulationSettings(LimitSettings, AdmissionSettings):
    """The variables that the simulation reads."""


@application.command()
def simulate(  # noqa: PLR0913 - one parameter for each option
    *,
    stores: Annotated[int, typer.Option(min=1, help="stores that ask for posts")] = 100,
    workers: Annotated[int, typer.Option(min=1, help="workers with CONCURRENT_BLOGS slots")] = 1,
    posts: Annotated[
        int | None,
        typer.Option(min=0, help="posts of the steady load  [default: 1000, 0 with a burst]"),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(**_POSITIVE, help="posts a minute  [default: 0.8 × what the limits allow]"),
    ] = None,
    zipf: Annotated[
        float,
        typer.Option(**_number(), help="inequality of the stores; 0: all ask equally often"),
    ] = 1.0,
    images: Annotated[
        float, typer.Option(**_number(most=1), help="part of the posts with an image, 0 to 1")
    ] = 1.0,
    burst: Annotated[
        list[str] | None,
        typer.Option(help="SECOND:STORES:POSTS, so many stores ask for so many posts each at once"),
    ] = None,
    arrivals: Annotated[
        Path | None,
        typer.Option(help="CSV of recorded arrivals in place of the generated ones: at,store"),
    ] = None,
    outline: Annotated[
        float, typer.Option(**_POSITIVE, help="median seconds of an outline")
    ] = Latencies().outline_s,
    article: Annotated[
        float, typer.Option(**_POSITIVE, help="median seconds of an article")
    ] = Latencies().article_s,
    image: Annotated[
        float, typer.Option(**_POSITIVE, help="median seconds of an image")
    ] = Latencies().image_s,
    outage: Annotated[
        list[str] | None,
        typer.Option(help="PROVIDER:SECOND:SECONDS, openai or replicate fails for so long"),
    ] = None,
    death: Annotated[
        list[str] | None, typer.Option(help="SECOND[:WORKERS], so many workers are killed")
    ] = None,
    deploy: Annotated[
        list[float] | None,
        typer.Option(**_number(), help="second at which all workers are replaced in turn"),
    ] = None,
    hours: Annotated[
        float, typer.Option(**_POSITIVE, help="stop after so many virtual hours")
    ] = _MOST_HOURS,
    seed: Annotated[int, typer.Option(help="the same seed gives the same run")] = 1,
    plot: Annotated[Path | None, typer.Option(help="write a picture to this SVG file")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="check the invariants at every event")
    ] = False,
    coarse: Annotated[
        bool,
        typer.Option(
            "--coarse", help="fewer events, for millions of posts: a worker reports once a second"
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Simulate the whole system with the production rules under a virtual clock.

    It answers how many workers are needed, which limit decides, and how long a peak takes, before
    it costs money. Reads OPENAI_RPM, OPENAI_TPM, REPLICATE_RPM, ACCOUNT_FLOOR, CONCURRENT_BLOGS,
    MAX_PER_INSTANCE, GENERATION_PARTITIONS and the MAX_PENDING variables from the environment.
    Exits with 1 if a post failed or did not finish.
    """
    settings = replace(
        _world_settings(SimulationSettings.from_environment()),
        workers=workers,
        latencies=Latencies(outline_s=outline, article_s=article, image_s=image),
        outages=tuple(map(_parse_outage, outage or ())),
        deaths=tuple(_parse_deaths(one, workers) for one in death or ()),
        deploys=tuple(Deploy(at=at) for at in deploy or ()),
        until=hours * 3_600,
        seed=seed,
    )
    if coarse:
        delays = Delays(turn_s=_COARSE_TURN_S)
        settings = replace(settings, report_every_s=_COARSE_REPORT_S, delays=delays)
    bursts = list(map(_parse_burst, burst or ()))
    if arrivals is not None:
        workload = read_arrivals(arrivals)
    else:
        steady = SteadyLoad(
            posts=(0 if bursts else _POSTS) if posts is None else posts,
            per_minute=rate or _LOAD * _allowed_rate(settings, images),
            stores=stores,
            zipf=zipf,
            images=images,
        )
        workload = generate_workload(steady, bursts, random.Random(seed))
    report = _run(settings, workload, check=check)
    if plot is not None:
        _write_plot(plot, report)
    print(_to_json(report) if as_json else format_report(report))
    raise typer.Exit(0 if report.done == report.posts else 1)


def _world_settings(settings: SimulationSettings) -> WorldSettings:
    """Describe the world as far as the environment decides."""
    account = settings.text_account()
    sizes = measure_text_sizes(account)
    limits = settings.provider_limits()
    too_small = [name for name, carried in limits.carried_calls().items() if not carried]
    if too_small:
        raise Unavailable(
            f"{' and '.join(too_small)} cannot carry one call: a worker does not start"
        )
    return WorldSettings(
        limits={
            TEXT: {"requests": limits.openai_rpm, "tokens": limits.openai_tpm},
            IMAGE: {"requests": limits.replicate_rpm},
            READS: {"reads": limits.replicate_read_rpm},
        },
        text_sizes=sizes,
        account_floor=settings.account_floor,
        slots=settings.concurrent_blogs,
        partitions=settings.generation_partitions,
        cap=settings.max_per_instance,
        batch_size=settings.batch_size,
        max_pending_per_store=settings.max_pending_per_store,
        max_pending_total=settings.max_pending_total,
        default_cost=settings.default_cost_nanousd,
    )


def _allowed_rate(settings: WorldSettings, images: float) -> float:
    """Return the posts a minute that the limits allow, by the tokens that calls reserve."""
    sizes = settings.text_sizes
    allowed = [
        settings.limits[TEXT]["requests"] / 2,
        settings.limits[TEXT]["tokens"]
        / (sizes.outline.reserved_tokens + sizes.article.reserved_tokens),
    ]
    if images:
        allowed.append(settings.limits[IMAGE]["requests"] / images)
    return min(allowed)


def _run(settings: WorldSettings, workload: Workload, *, check: bool) -> SimulationReport:
    world = SimulatedWorld(settings, workload, check=check)
    gc.disable()  # hardly any garbage has cycles, and looking for it takes a third of the time
    try:
        world.run(progress=_make_progress(world))
    finally:
        gc.enable()
    return summarize_world(world)


def _to_json(report: SimulationReport) -> str:
    return orjson.dumps(asdict(report) | {"binding": report.binding}).decode()


def _make_progress(world: SimulatedWorld) -> Callable[[], None]:
    """Return a function that prints a line every two seconds."""
    began = printed_at = time.monotonic()

    def progress() -> None:
        nonlocal printed_at
        now = time.monotonic()
        if now - printed_at < _PROGRESS_EVERY_S:
            return
        printed_at = now
        ended = world.statistics.done + world.statistics.failed
        print_line(
            f"{format_duration(world.clock.now)} simulated: {ended:,} of"
            f" {world.workload.posts:,} posts ended, {ended / (now - began):,.0f} a second"
        )

    return progress


def _write_plot(path: Path, report: SimulationReport) -> None:
    try:
        path.write_text(draw_report(report), encoding="utf-8")
    except OSError as error:
        raise Unavailable(f"the picture cannot be written: {error}") from None


def _parse_burst(text: str) -> Burst:
    given = f"--burst {text}"
    at, stores, posts = _parse_numbers(text, given, "SECOND:STORES:POSTS", 3)
    if stores < 1 or posts < 1:
        raise typer.BadParameter(f"{given}: STORES and POSTS are at least 1")
    return Burst(at=at, stores=round(stores), posts=round(posts))


def _parse_outage(text: str) -> Outage:
    given = f"--outage {text}"
    provider, _, rest = text.partition(":")
    if provider not in (TEXT, IMAGE):
        raise typer.BadParameter(f"{given}: the provider is {TEXT} or {IMAGE}")
    at, seconds = _parse_numbers(rest, given, "PROVIDER:SECOND:SECONDS", 2)
    return Outage(provider=provider, at=at, seconds=seconds)


def _parse_deaths(text: str, workers: int) -> WorkerDeaths:
    given, form = f"--death {text}", "SECOND[:WORKERS]"
    if ":" not in text:
        return WorkerDeaths(at=_parse_numbers(text, given, form, 1)[0])
    at, count = _parse_numbers(text, given, form, 2)
    if count > workers:
        raise typer.BadParameter(f"{given}: more deaths than --workers {workers}")
    return WorkerDeaths(at=at, count=round(count))


def _parse_numbers(text: str, given: str, form: str, count: int) -> list[float]:
    """Return the numbers in `text`. An error quotes the whole option as it was given."""
    try:
        numbers = [float(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(isfinite(one) and one >= 0 for one in numbers):
        raise typer.BadParameter(f"{given}: give {form}, numbers of at least 0")
    return numbers
