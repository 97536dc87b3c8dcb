"""`./blogstream capacity`: computes the workers for a load (docs/scaling.md)."""

from dataclasses import asdict
from math import isfinite
from typing import Annotated, Any

import orjson
import typer
from pydantic import Field

from sandbox.capacity import BlogDemand, CapacityPlan, ProviderLimits, plan_capacity
from services.generator.settings import GeneratorSettings
from shared.runtime.settings import ProcessingSettings

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_Positive = dict[str, Any](min=0.001)


def _limit(name: str) -> Any:
    return Field(GeneratorSettings.model_fields[name].default, gt=0)


class _Limits(ProcessingSettings):
    """The generator's rate limits, without its required settings."""

    openai_rpm: float = _limit("openai_rpm")
    openai_tpm: float = _limit("openai_tpm")
    replicate_rpm: float = _limit("replicate_rpm")


@application.command()
def capacity(
    blogs: Annotated[float, typer.Option(**_Positive, help="wanted blogs per minute")],
    seconds: Annotated[
        float, typer.Option(**_Positive, help="seconds per blog, without waits for rate limits")
    ] = 100,
    tokens: Annotated[
        float, typer.Option(**_Positive, help="billed tokens per blog, input and output")
    ] = 5_500,
    calls: Annotated[float, typer.Option(**_Positive, help="text calls per blog")] = 2,
    images: Annotated[float, typer.Option(min=0, help="images per blog")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Compute the number of workers for a rate of blogs.

    Exits with 1 when the rate limits or the number of partitions do not allow that rate. Reads
    OPENAI_RPM, OPENAI_TPM, REPLICATE_RPM and CONCURRENT_BLOGS from the environment.
    """
    settings = _Limits.from_environment()
    limits = ProviderLimits(
        openai_rpm=settings.openai_rpm,
        openai_tpm=settings.openai_tpm,
        replicate_rpm=settings.replicate_rpm,
    )
    blog = BlogDemand(seconds=seconds, calls=calls, tokens=tokens, images=images)
    plan = plan_capacity(blogs, limits, blog, concurrent=settings.concurrent_blogs)
    if as_json:
        print(orjson.dumps(asdict(plan)).decode())
    else:
        print("\n".join(_plan_lines(plan, settings.concurrent_blogs)))
    raise typer.Exit(0 if plan.limited_by == "nothing" and plan.enough else 1)


def _plan_lines(plan: CapacityPlan, concurrent: int) -> list[str]:
    lines = []
    for name, ceiling in plan.ceilings.items():
        rate = f"{ceiling:,.1f}" if isfinite(ceiling) else "any number of"
        lines.append(f"{name:<14} allows {rate} blogs per minute")
    if plan.limited_by != "nothing":
        lines.append(
            f"{plan.limited_by} limits the rate to {plan.blogs_per_minute:,.1f}:"
            " ask the provider for a higher limit"
        )
    lines.append(
        f"{plan.slots:,.1f} blogs in progress, {concurrent} per worker: {plan.workers} workers"
    )
    if plan.enough:
        lines.append("add one worker, so that one may fail without a growing queue")
    else:
        lines.append("one worker per partition is not enough: raise CONCURRENT_BLOGS")
    return lines
