"""`./blogstream capacity`: computes the workers for a load (docs/scaling.md)."""

from dataclasses import asdict
from math import isfinite
from typing import Annotated, Any

import orjson
import typer

from sandbox.capacity import USUAL_BLOG, BlogDemand, CapacityPlan, plan_capacity
from sandbox.limits import LimitSettings

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_Positive = dict[str, Any](min=0.001)


@application.command()
def capacity(
    blogs: Annotated[float, typer.Option(**_Positive, help="wanted blogs per minute")],
    seconds: Annotated[
        float, typer.Option(**_Positive, help="seconds per blog, without waits for rate limits")
    ] = USUAL_BLOG.seconds,
    tokens: Annotated[
        float, typer.Option(**_Positive, help="billed tokens per blog, input and output")
    ] = USUAL_BLOG.tokens,
    calls: Annotated[
        float, typer.Option(**_Positive, help="text calls per blog")
    ] = USUAL_BLOG.calls,
    images: Annotated[float, typer.Option(min=0, help="images per blog")] = USUAL_BLOG.images,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Compute the number of workers for a rate of blogs.

    Exits with 1 when the rate limits or the number of partitions do not allow that rate. Reads
    OPENAI_RPM, OPENAI_TPM, REPLICATE_RPM, CONCURRENT_BLOGS and GENERATION_PARTITIONS from the
    environment.
    """
    settings = LimitSettings.from_environment()
    plan = plan_capacity(
        blogs,
        settings.provider_limits(),
        BlogDemand(seconds=seconds, calls=calls, tokens=tokens, images=images),
        concurrent=settings.concurrent_blogs,
        partitions=settings.generation_partitions,
    )
    if as_json:
        print(orjson.dumps(asdict(plan)).decode())
    else:
        print("\n".join(_plan_lines(plan, settings)))
    fulfilled = plan.limited_by == "nothing" and plan.enough and not plan.too_small
    raise typer.Exit(0 if fulfilled else 1)


def _plan_lines(plan: CapacityPlan, settings: LimitSettings) -> list[str]:
    lines = [
        f"{name} cannot carry one call: a worker does not start; ask the provider for a higher"
        " limit"
        for name in plan.too_small
    ]
    for name, ceiling in plan.ceilings.items():
        rate = f"{ceiling:,.1f}" if isfinite(ceiling) else "any number of"
        lines.append(f"{name:<14} allows {rate} blogs per minute")
    if plan.limited_by != "nothing":
        lines.append(
            f"{plan.limited_by} limits the rate to {plan.blogs_per_minute:,.1f}:"
            " ask the provider for a higher limit"
        )
    lines.append(
        f"{plan.text_partitions} of {settings.generation_partitions} partitions carry quota for"
        f" texts, {plan.image_partitions} for images: as many workers get jobs"
    )
    lines.append(
        f"{plan.slots:,.1f} blogs in progress, {settings.concurrent_blogs} per worker:"
        f" {plan.workers} workers"
    )
    if plan.enough:
        lines.append("add one worker, so that one may fail without a growing queue")
    else:
        lines.append(
            "one worker per partition that carries quota is not enough: raise CONCURRENT_BLOGS"
        )
    return lines
