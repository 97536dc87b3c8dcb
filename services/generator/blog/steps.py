"""The steps of a blog: outline, then article and hero image side by side, then assembly.

Before a call is paid for, the step is noted as STARTED; its answer is saved before anything else happens. A later
attempt begins after the last saved answer; an image that was created is taken up by its id.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

from pydantic import BaseModel

from services.generator.blog import prompts
from services.generator.blog.article import Article, Outline, to_plain_text, render_html, make_slug
from services.generator.blog.image_storage import ImageStorage
from services.generator.jobs.repository import Lease, GenerationRepository, BlogPost, SavedStep
from services.generator.providers.openai import TextCall, OpenAITextProvider, UnusableAnswer
from services.generator.providers.prices import Prices
from services.generator.providers.replicate import GeneratedImage, ReplicateImageProvider
from services.generator.quota.rules import Permit
from shared.domain.errors import Permanent, Transient
from shared.domain.job import Step
from shared.domain.messages import Usage
from shared.observability import tracing
from shared.observability.log import get_logger

log = get_logger(__name__)

A = TypeVar("A", bound=BaseModel)
_REPAIRS = 2
"""Times that a step is asked for again within an attempt when its answer is cut off or breaks its schema."""

_REASKS = 1
"""Times that a call in doubt is made again, whether its worker died or its answer never came."""

_WORTH_REPAINTING = {"replicate-failed", "replicate-aborted"}

StepDone = Callable[[Lease, Step, float], Awaitable[None]]
"""Hears of the step and of the seconds that its call had waited for the limits."""


class BlogSteps:
    """Runs a claimed job's steps up to the assembled post. `step_done` hears of each step that was paid for."""

    def __init__(
        self,
        *,
        store: GenerationRepository,
        writer: OpenAITextProvider,
        painter: ReplicateImageProvider,
        images: ImageStorage,
        prices: Prices,
        step_done: StepDone,
    ) -> None:
        self._store = store
        self._writer = writer
        self._painter = painter
        self._images = images
        self._prices = prices
        self._step_done = step_done
        self._calls: Counter[UUID] = Counter()

    def has_paid_call(self, job: UUID) -> bool:
        """Whether a call of this job is under way that is billed, or its answer about to be saved."""
        return self._calls[job] > 0

    async def run(self, claim: Lease) -> BlogPost:
        saved = await self._store.load_steps(claim)
        request = claim.request
        outline = await self._write(
            claim,
            Step.OUTLINE,
            saved,
            Outline,
            prompts.OUTLINE_INSTRUCTIONS,
            prompts.build_outline_input(request),
            prompts.OUTLINE_MAX_TOKENS,
        )
        article_call = self._write(
            claim,
            Step.ARTICLE,
            saved,
            Article,
            prompts.ARTICLE_INSTRUCTIONS,
            prompts.build_article_input(request, outline),
            prompts.ARTICLE_MAX_TOKENS,
        )
        if request.images == 0:
            return _assemble(await article_call, image_url=None)
        article, image_url = await _both(article_call, self._paint(claim, saved, outline))
        return _assemble(article, image_url=image_url)

    async def _write(
        self,
        claim: Lease,
        step: Step,
        saved: dict[Step, SavedStep],
        answer: type[A],
        instructions: str,
        data: str,
        max_tokens: int,
    ) -> A:
        if (known := saved.get(step)) is not None and known.done is not None:
            return answer.model_validate(known.done)
        call = TextCall(
            job=claim.job, step=step, instructions=instructions, data=data, max_tokens=max_tokens
        )
        for repair in range(_REPAIRS + 1):
            try:
                with tracing.span(f"step {step}"):
                    return await self._ask(claim, step, call, answer, known)
            except UnusableAnswer as vain:
                log.warning(
                    "an answer was of no use", job=str(claim.job), step=step, reason=str(vain.cause)
                )
                if repair == _REPAIRS or (
                    repair and isinstance(vain.cause, Permanent)
                ):  # who declines twice means it
                    raise Permanent(
                        f"gave up after {repair + 1} answers: {vain.cause}", code=vain.cause.code
                    ) from None
                call = replace(call, instructions=prompts.add_repair_hint(instructions, str(vain.cause)))
        raise AssertionError("the last round returns or raises")

    async def _ask(
        self, claim: Lease, step: Step, call: TextCall, answer: type[A], known: SavedStep | None
    ) -> A:
        while True:
            with tracing.span("limiter wait"):
                grant = await self._writer.acquire_permit(call, answer, may_probe=_may_probe(known))
            with self._paying(claim.job):
                begun = await self._begin(claim, step, grant, known)
                if begun.done is not None:
                    return answer.model_validate(begun.done)
                if self._writer.is_valid(grant):
                    written = await self._call_writer(claim, step, call, answer, grant, begun)
                    break
            log.warning(
                "a call's note took too long: it waits for its turn again",
                job=str(claim.job),
                step=step,
            )
        await self._step_done(claim, step, grant.waited_s)
        return written

    async def _call_writer(
        self, claim: Lease, step: Step, call: TextCall, answer: type[A], grant: Permit, begun: SavedStep
    ) -> A:
        try:
            with tracing.span("call openai", kind=tracing.CLIENT):
                written, usage = await self._writer.write_text(call, answer, grant)
        except UnusableAnswer as vain:
            await self._store.finish_step(claim, step, state="FAILED", usage=vain.usage)
            raise
        except Exception as error:
            await self._fail(claim, step, error, begun)
            raise
        await self._store.finish_step(
            claim, step, state="DONE", usage=usage, result=written.model_dump()
        )
        return written

    async def _paint(self, claim: Lease, saved: dict[Step, SavedStep], outline: Outline) -> str:
        before = saved.get(Step.IMAGE)
        if before is not None and before.done is not None:
            return str(before.done["url"])
        with tracing.span(f"step {Step.IMAGE}"):
            image, waited_s = await self._painted(claim, before, outline)
        with self._paying(claim.job):
            url = await self._images.save_image(
                claim.request.store, str(claim.job), image.content, image.media_type
            )
            await self._store.finish_step(
                claim, Step.IMAGE, state="DONE", usage=self._prices.usage_of_image(), result={"url": url}
            )
        await self._step_done(claim, Step.IMAGE, waited_s)
        return url

    async def _painted(
        self, claim: Lease, before: SavedStep | None, outline: Outline
    ) -> tuple[GeneratedImage, float]:
        """The image, and how long its call had waited for the limits. One that fails is painted once more."""
        try:
            image = await self._painted_before(claim, before)
            return (
                (image, 0.0)
                if image is not None
                else await self._paint_anew(claim, outline, before)
            )
        except Permanent as error:
            await self._store.finish_step(claim, Step.IMAGE, state="FAILED", usage=Usage())
            if error.code not in _WORTH_REPAINTING:
                raise
            log.warning("an image is painted once more", job=str(claim.job), reason=str(error))
        try:
            return await self._paint_anew(claim, outline, before)
        except Permanent:
            await self._store.finish_step(claim, Step.IMAGE, state="FAILED", usage=Usage())
            raise

    async def _painted_before(self, claim: Lease, before: SavedStep | None) -> GeneratedImage | None:
        """What an earlier attempt had painted, if it did and the provider still has it."""
        if before is None or before.external_id is None:
            return None
        with self._paying(claim.job):
            return await self._finish(claim, before.external_id)

    async def _paint_anew(
        self, claim: Lease, outline: Outline, before: SavedStep | None
    ) -> tuple[GeneratedImage, float]:
        while True:
            with tracing.span("limiter wait"):
                grant = await self._painter.acquire_permit(may_probe=_may_probe(before))
            with self._paying(claim.job):
                begun = await self._begin(claim, Step.IMAGE, grant, before)
                if begun.done is not None:
                    raise Transient(
                        "an earlier attempt's image has come meanwhile",
                        code="image-came",
                        delay=0.0,
                    )
                if begun.external_id is not None or self._painter.is_valid(grant):
                    prediction = begun.external_id or await self._create(claim, outline, begun)
                    image = await self._finish(claim, prediction)
                    break
            log.warning(
                "a call's note took too long: it waits for its turn again",
                job=str(claim.job),
                step=Step.IMAGE,
            )
        if image is None:
            raise Transient(
                "Replicate no longer knows the prediction it made",
                code="replicate-gone",
                in_doubt=True,
            )
        return image, grant.waited_s

    async def _create(self, claim: Lease, outline: Outline, begun: SavedStep) -> str:
        try:
            with tracing.span("call replicate", kind=tracing.CLIENT):
                prediction = await self._painter.create_prediction(claim.job, prompts.build_image_prompt(outline))
        except Exception as error:
            await self._fail(claim, Step.IMAGE, error, begun)
            raise
        await self._store.save_external_id(claim, Step.IMAGE, prediction)
        return prediction

    async def _finish(self, claim: Lease, prediction: str) -> GeneratedImage | None:
        """The image of a prediction; None, and its name forgotten, when it is gone: another is to be made."""
        try:
            with tracing.span("await replicate", kind=tracing.CLIENT):
                image = await self._painter.fetch_image(claim.job, prediction)
        except Permanent:
            await self._store.clear_external_id(
                claim, Step.IMAGE, prediction
            )  # another attempt needs another one
            raise
        if image is None:
            await self._store.clear_external_id(claim, Step.IMAGE, prediction)
            log.warning(
                "a prediction is gone",
                job=str(claim.job),
                store=claim.request.store,
                prediction=prediction,
            )
        return image

    @contextmanager
    def _paying(self, job: UUID) -> Iterator[None]:
        self._calls[job] += 1
        try:
            yield
        finally:
            self._calls[job] -= 1
            if not self._calls[job]:
                del self._calls[job]

    async def _fail(self, claim: Lease, step: Step, error: Exception, begun: SavedStep) -> None:
        """Note that a call has failed. Raises `Permanent` instead of its error when it has been in doubt too often."""
        in_doubt = isinstance(error, Transient) and error.in_doubt
        await self._store.finish_step(claim, step, state="FAILED", usage=Usage(), in_doubt=in_doubt)
        if in_doubt and begun.in_doubt + 1 > _REASKS:
            raise _doubted(step, begun.in_doubt + 1, str(error)) from error

    async def _begin(
        self, claim: Lease, step: Step, grant: Permit, before: SavedStep | None
    ) -> SavedStep:
        """A call that a dead worker had begun may have been billed: it is made again once, and then no more."""
        begun = await self._store.begin_step(claim, step, grant)
        found = begun.in_doubt - (before.in_doubt if before is not None else 0)
        if found <= 0 or begun.done is not None:
            return begun
        log.warning(
            "a call was begun by a worker that is gone, and its answer never saved",
            job=str(claim.job),
            store=claim.request.store,
            step=step,
            in_doubt=begun.in_doubt,
        )
        if begun.in_doubt > _REASKS:
            await self._store.finish_step(claim, step, state="FAILED", usage=Usage())
            raise _doubted(step, begun.in_doubt, "its worker is gone")
        return begun


def _may_probe(before: SavedStep | None) -> bool:
    """Whether a job may find out if a provider serves again: not one that would fail with one more call in doubt."""
    return before is None or before.in_doubt < _REASKS


def _doubted(step: Step, times: int, last: str) -> Permanent:
    return Permanent(
        f"the {step} was begun {times} times and never answered, perhaps billed each time: {last}",
        code="in-doubt",
    )


async def _both(article: Awaitable[Article], image: Awaitable[str]) -> tuple[Article, str]:
    """Wait for both even when one fails: what the other has paid for is to be saved."""
    written, painted = await asyncio.gather(article, image, return_exceptions=True)
    for outcome in (written, painted):
        if isinstance(outcome, BaseException):
            raise outcome
    assert isinstance(written, Article)
    assert isinstance(painted, str)
    return written, painted


def _assemble(article: Article, *, image_url: str | None) -> BlogPost:
    return BlogPost(
        title=to_plain_text(article.title, 200),
        slug=make_slug(article.slug, article.title),
        meta_description=to_plain_text(article.meta_description, 160),
        html=render_html(article),
        image_url=image_url,
    )
