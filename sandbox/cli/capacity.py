"""`./blogstream capacity`: how many workers a load needs, and which limit ends it (docs/scaling.md)."""

from dataclasses import asdict
from math import isfinite
from typing import Annotated, Any

import orjson
import typer
from pydantic import Field

from sandbox.capacity import ProviderLimits, BlogDemand, CapacityPlan, plan_capacity
from services.generator.settings import GeneratorSettings
from shared.runtime.settings import FlowSettings

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_Positive = dict[str, Any](min=0.001)


def _limit(name: str) -> Any:
    return Field(GeneratorSettings.model_fields[name].default, gt=0)


class _Limits(FlowSettings):
    """The generator's, without what it needs to run."""

    openai_rpm: float = _limit("openai_rpm")
    openai_tpm: float = _limit("openai_tpm")
    replicate_rpm: float = _limit("replicate_rpm")


@application.command()
def capacity(
    blogs: Annotated[float, typer.Option(**_Positive, help="blogs a minute that are wanted")],
    seconds: Annotated[
        float, typer.Option(**_Positive, help="seconds for one blog, without waits for limits")
    ] = 100,
    tokens: Annotated[
        float, typer.Option(**_Positive, help="tokens charged for one blog, in and out")
    ] = 5_500,
    calls: Annotated[float, typer.Option(**_Positive, help="text calls for one blog")] = 2,
    images: Annotated[float, typer.Option(min=0, help="images for one blog")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Workers for so many blogs a minute. Exit 1 when the account's limits, or the partitions, do not allow them.

    OPENAI_RPM, OPENAI_TPM, REPLICATE_RPM and CONCURRENT_BLOGS count as they are set in the environment.
    """
    limits = _Limits.from_environment()
    account = ProviderLimits(
        openai_rpm=limits.openai_rpm,
        openai_tpm=limits.openai_tpm,
        replicate_rpm=limits.replicate_rpm,
    )
    blog = BlogDemand(seconds=seconds, calls=calls, tokens=tokens, images=images)
    made = plan_capacity(blogs, account, blog, concurrent=limits.concurrent_blogs)
    print(
        orjson.dumps(asdict(made)).decode()
        if as_json
        else "\n".join(_lines(made, limits.concurrent_blogs))
    )
    raise typer.Exit(0 if made.limited_by == "nothing" and made.enough else 1)


def _lines(made: CapacityPlan, concurrent: int) -> list[str]:
    lines = [
        f"{name:<14} allows {f'{ceiling:,.1f}' if isfinite(ceiling) else 'any number of'} blogs a minute"
        for name, ceiling in made.ceilings.items()
    ]
    if made.limited_by != "nothing":
        lines.append(
            f"so {made.limited_by} ends it at {made.blogs_per_minute:,.1f}: ask the provider for more"
        )
    lines.append(
        f"{made.slots:,.1f} blogs at work at once, {concurrent} a worker: {made.workers} workers"
    )
    if made.enough:
        lines.append("one more, so that one may fail without a queue")
    else:
        lines.append("that is every partition's worker, and not enough: raise CONCURRENT_BLOGS")
    return lines
