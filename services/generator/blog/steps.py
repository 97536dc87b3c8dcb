"""Runs the steps of a job: outline, then article and hero image in parallel, then assembly.

Each paid call is recorded as STARTED before it begins, and its answer is saved before anything else
happens. A later attempt continues after the last saved answer, and fetches an image that was
already created by its id.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

from pydantic import BaseModel

from services.generator.blog import prompts
from services.generator.blog.article import (
    Article,
    Outline,
    make_slug,
    render_html,
    to_plain_text,
)
from services.generator.blog.image_storage import ImageStorage
from services.generator.jobs.events import JobEventPublisher
from services.generator.jobs.repository import (
    BlogPost,
    GenerationRepository,
    Lease,
    SavedStep,
    StepFailure,
)
from services.generator.providers.accounts.pool import ImageAccountPool, TextAccountPool
from services.generator.providers.openai.outcomes import INCOMPLETE, REFUSED
from services.generator.providers.openai.provider import (
    BilledFailure,
    TextCall,
    UnsupportedFeature,
    UnusableAnswer,
)
from services.generator.providers.replicate.prediction import Prediction
from services.generator.providers.replicate.reads import GeneratedImage, UnusablePrediction
from services.generator.quota.rules import Permit, PermitRank
from shared.domain.errors import Permanent, Transient
from shared.domain.job import Step
from shared.domain.messages import Usage
from shared.observability import tracing
from shared.observability.log import get_logger

log = get_logger(__name__)

A = TypeVar("A", bound=BaseModel)
_NO_USAGE = Usage()

_MAX_IN_DOUBT = 2
"""Isolated in-doubt calls of a step that are repeated: the provider served other jobs meanwhile, or
the worker died. Calls that an outage cut off have no such limit: the pauses between attempts bound
the cost. A retry by a user allows as many again."""

_MAX_UNUSABLE = 3
"""Paid answers of a step that may be unusable, over all attempts. A retry by a user allows as many
again."""


class BlogSteps:
    """Runs a leased job's steps up to the assembled post, and announces each paid step."""

    def __init__(
        self,
        *,
        repository: GenerationRepository,
        text_provider: TextAccountPool,
        image_provider: ImageAccountPool | None,
        image_storage: ImageStorage,
        events: JobEventPublisher,
    ) -> None:
        self._repository = repository
        self._text_provider = text_provider
        self._image_provider_or_none = image_provider
        self._image_storage = image_storage
        self._events = events
        self._paid_calls: Counter[UUID] = Counter()

    @property
    def _image_provider(self) -> ImageAccountPool:
        """Return the provider of images; `write_post` checks that there is one."""
        assert self._image_provider_or_none is not None
        return self._image_provider_or_none

    def has_paid_call(self, job: UUID) -> bool:
        """Return whether a billed call of this job is in progress or its answer not yet saved."""
        return self._paid_calls[job] > 0

    async def write_post(self, lease: Lease) -> BlogPost:
        """Run all steps that are not saved yet.

        Raises `Transient`, `Permanent`, `LeaseLostError`.
        """
        saved = await self._repository.load_steps(lease)
        await self._check_limits(lease, saved)
        request = lease.request
        outline = await self._write_text(
            lease,
            Step.OUTLINE,
            saved,
            Outline,
            prompts.OUTLINE_INSTRUCTIONS,
            prompts.build_outline_input(request),
            prompts.OUTLINE_MAX_TOKENS,
        )
        article_call = self._write_text(
            lease,
            Step.ARTICLE,
            saved,
            Article,
            prompts.ARTICLE_INSTRUCTIONS,
            prompts.build_article_input(request, outline),
            prompts.ARTICLE_MAX_TOKENS,
        )
        if request.images == 0 or self._image_provider_or_none is None:
            return _assemble(await article_call, image_url=_saved_image_url(saved))
        image_call = self._create_image(lease, saved, outline)
        article, image_url = await _gather_both(article_call, image_call)
        return _assemble(article, image_url=image_url)

    async def _check_limits(self, lease: Lease, saved: Mapping[Step, SavedStep]) -> None:
        """Raise `Permanent` if an earlier attempt gave up on a step, without a further call.

        Fetches the image of a running prediction before: it is paid for.
        """
        needs_image = lease.request.images > 0 and self._image_provider_or_none is not None
        finals = [
            _find_final_error(step, known)
            for step, known in saved.items()
            if step is not Step.IMAGE or needs_image
        ]
        final = next((error for error in finals if error is not None), None)
        if final is None:
            return
        image = saved.get(Step.IMAGE) if needs_image else None
        if image is not None and image.done is None and image.external_id is not None:
            try:
                await self._fetch_saved_prediction(lease, image)
            except (Transient, Permanent) as error:
                log.warning(
                    "image not fetched",
                    job=str(lease.job),
                    store=lease.request.store,
                    reason=str(error),
                )
        raise final

    async def _write_text(
        self,
        lease: Lease,
        step: Step,
        saved: dict[Step, SavedStep],
        answer: type[A],
        instructions: str,
        data: str,
        max_tokens: int,
    ) -> A:
        if (known := saved.get(step)) is not None and known.done is not None:
            return answer.model_validate(known.done)
        unusable = known.unusable if known is not None else 0
        call = TextCall(
            job=lease.job,
            store=lease.request.store,
            model=lease.request.model,
            step=step,
            instructions=instructions,
            data=data,
            max_tokens=max_tokens,
            cuts=unusable,
            rank=PermitRank(
                starts_job=step is Step.OUTLINE and lease.attempt == 1, value=lease.permit_rank
            ),
        )
        while True:
            try:
                with tracing.start_span(f"step {step}"):
                    return await self._call_with_permit(lease, step, call, answer, known)
            except UnusableAnswer as ended:
                log.warning(
                    "provider answer unusable", job=str(lease.job), step=step, reason=str(ended)
                )
                call = _repair_call(call, instructions, ended)
                call = replace(call, rank=call.rank._replace(starts_job=False))

    async def _call_with_permit(
        self,
        lease: Lease,
        step: Step,
        call: TextCall,
        answer: type[A],
        known: SavedStep | None,
    ) -> A:
        while True:
            with tracing.start_span("limiter wait"):
                permit = await self._text_provider.acquire_permit(call, answer)
            call = replace(call, rank=call.rank._replace(starts_job=False))
            with self._count_paid_call(lease.job):
                begun = await self._begin_step(lease, step, permit, known)
                if begun.done is not None:
                    return answer.model_validate(begun.done)
                if not self._text_provider.is_valid(permit):
                    _log_expired_permit(lease, step)
                    await self._repository.withdraw_step(lease, step)
                    continue
                try:
                    written = await self._call_text_provider(
                        lease, step, call, answer, permit, begun
                    )
                except UnsupportedFeature:
                    # The call was not billed. Repeat it without the feature, with another permit.
                    await self._repository.withdraw_step(lease, step)
                    continue
            await self._events.publish_step_done(lease, step, permit.waited_s)
            return written

    async def _call_text_provider(
        self,
        lease: Lease,
        step: Step,
        call: TextCall,
        answer: type[A],
        permit: Permit,
        begun: SavedStep,
    ) -> A:
        try:
            with tracing.start_span("call openai", kind=tracing.CLIENT):
                written, usage = await self._text_provider.write_text(call, answer, permit)
        except UnsupportedFeature:
            raise
        except UnusableAnswer as ended:
            unusable = begun.unusable + 1
            is_final = _is_final(ended, unusable)
            await self._repository.finish_step(
                lease,
                step,
                state="FAILED",
                usage=ended.usage,
                failure=StepFailure(
                    unusable=True, gave_up=ended.outcome.code if is_final else None
                ),
            )
            if is_final:
                raise Permanent(
                    f"gave up after {unusable} answers: {ended}", code=ended.outcome.code
                ) from ended
            raise
        except BilledFailure as failure:
            await self._record_failure(lease, step, failure.cause, begun, usage=failure.usage)
            raise failure.cause from failure
        except Exception as error:
            await self._record_failure(lease, step, error, begun)
            raise
        await self._repository.finish_step(
            lease, step, state="DONE", usage=usage, result=written.model_dump()
        )
        return written

    async def _create_image(
        self, lease: Lease, saved: dict[Step, SavedStep], outline: Outline
    ) -> str:
        known = saved.get(Step.IMAGE)
        if known is not None and known.done is not None:
            return str(known.done["url"])
        with tracing.start_span(f"step {Step.IMAGE}"):
            if known is not None and known.external_id is not None:
                return await self._fetch_saved_prediction(lease, known)
            image, waited_s = await self._create_new_image(lease, outline, known)
        return await self._save_image(lease, image, waited_s)

    async def _fetch_saved_prediction(self, lease: Lease, known: SavedStep) -> str:
        """Await the prediction of an earlier attempt, and save its image. Returns its URL."""
        assert known.external_id is not None
        prediction = Prediction(id=known.external_id, account=known.account, age_s=known.age_s)
        with self._count_paid_call(lease.job):
            image = await self._fetch_prediction(lease, prediction, known)
        return await self._save_image(lease, image, waited_s=0.0)

    async def _save_image(self, lease: Lease, image: GeneratedImage, waited_s: float) -> str:
        """Save an image. `waited_s`: the time for which its call waited for a permit."""
        with self._count_paid_call(lease.job):
            url = await self._image_storage.save_image(
                lease.request.store, str(lease.job), image.content, image.media_type
            )
            await self._repository.finish_step(
                lease, Step.IMAGE, state="DONE", usage=image.usage, result={"url": url}
            )
        await self._events.publish_step_done(lease, Step.IMAGE, waited_s)
        return url

    async def _create_new_image(
        self, lease: Lease, outline: Outline, known: SavedStep | None
    ) -> tuple[GeneratedImage, float]:
        while True:
            with tracing.start_span("limiter wait"):
                permit = await self._image_provider.acquire_permit(
                    lease.job, PermitRank(value=lease.permit_rank)
                )
            with self._count_paid_call(lease.job):
                begun = await self._begin_step(lease, Step.IMAGE, permit, known)
                if begun.done is not None:
                    raise Transient(
                        "an earlier attempt saved the image meanwhile",
                        code="image-came",
                        delay=0.0,
                    )
                if begun.external_id is not None:
                    prediction = Prediction(id=begun.external_id, account=begun.account)
                    return await self._fetch_prediction(lease, prediction, begun), permit.waited_s
                if self._image_provider.is_valid(permit):
                    prediction = await self._create_prediction(lease, outline, begun, permit)
                    return await self._fetch_prediction(lease, prediction, begun), permit.waited_s
                _log_expired_permit(lease, Step.IMAGE)
                await self._repository.withdraw_step(lease, Step.IMAGE)

    async def _create_prediction(
        self, lease: Lease, outline: Outline, begun: SavedStep, permit: Permit
    ) -> Prediction:
        try:
            with tracing.start_span("call replicate", kind=tracing.CLIENT):
                prediction = await self._image_provider.create_prediction(
                    lease.job, prompts.build_image_prompt(outline), permit
                )
        except Exception as error:
            await self._record_failure(lease, Step.IMAGE, error, begun)
            raise
        await self._repository.save_external_id(
            lease, Step.IMAGE, prediction.id, account=prediction.account or ""
        )
        return prediction

    async def _fetch_prediction(
        self, lease: Lease, prediction: Prediction, saved: SavedStep
    ) -> GeneratedImage:
        """Fetch a prediction's image. If it ended without one, record that, and remove its id."""
        try:
            with tracing.start_span("await replicate", kind=tracing.CLIENT):
                return await self._image_provider.fetch_image(lease.job, prediction)
        except UnusablePrediction as ended:
            log.warning(
                "prediction unusable",
                job=str(lease.job),
                store=lease.request.store,
                prediction=prediction.id,
                reason=str(ended),
            )
            error = _prediction_error(ended, saved.unusable + 1)
            await self._repository.finish_step(
                lease,
                Step.IMAGE,
                state="FAILED",
                usage=ended.usage,
                failure=StepFailure(
                    in_doubt=ended.outcome.in_doubt,
                    unusable=ended.counts,
                    gave_up=error.code if isinstance(error, Permanent) else None,
                    ended_id=prediction.id,
                ),
            )
            raise error from ended

    @contextmanager
    def _count_paid_call(self, job: UUID) -> Iterator[None]:
        self._paid_calls[job] += 1
        try:
            yield
        finally:
            self._paid_calls[job] -= 1
            if not self._paid_calls[job]:
                del self._paid_calls[job]

    async def _record_failure(
        self,
        lease: Lease,
        step: Step,
        error: Exception,
        begun: SavedStep,
        usage: Usage = _NO_USAGE,
    ) -> None:
        """Record a failed call, and what was billed for it.

        Raises `Permanent` if the step has had too many isolated in-doubt calls. A call that ended
        with a bug may have been billed, and no outage explains it.
        """
        is_bug = not isinstance(error, Transient | Permanent)
        in_doubt = is_bug or (isinstance(error, Transient) and error.in_doubt)
        isolated = is_bug or (isinstance(error, Transient) and error.isolated)
        failure = StepFailure(in_doubt=in_doubt, isolated=isolated)
        await self._repository.finish_step(
            lease, step, state="FAILED", usage=usage, failure=failure
        )
        if in_doubt and isolated and begun.isolated_in_doubt + 1 > _MAX_IN_DOUBT:
            final = _in_doubt_error(step, begun.isolated_in_doubt + 1, str(error))
            if is_bug:
                final.code = "internal"
            raise final from error

    async def _begin_step(
        self, lease: Lease, step: Step, permit: Permit, known: SavedStep | None
    ) -> SavedStep:
        """Record that a call begins.

        A call begun by a dead worker may have been billed: it is repeated, and after too many
        such calls `Permanent` is raised.
        """
        begun = await self._repository.begin_step(lease, step, permit)
        if begun.done is not None or begun.external_id is not None:
            return begun
        if begun.in_doubt > (known.in_doubt if known is not None else 0):
            log.warning(
                "in-doubt call of a dead worker found",
                job=str(lease.job),
                store=lease.request.store,
                step=step,
                in_doubt=begun.in_doubt,
            )
        final = _find_final_error(step, begun)
        if final is not None:
            await self._repository.withdraw_step(lease, step)
            raise final
        return begun


def _find_final_error(step: Step, saved: SavedStep) -> Permanent | None:
    """Return the error of a step that is not begun again, or `None`."""
    if saved.done is not None:
        return None
    if saved.gave_up is not None:
        return Permanent(
            f"an earlier attempt gave up on the {step}, after {saved.unusable} unusable answers",
            code=saved.gave_up,
        )
    if saved.isolated_in_doubt > _MAX_IN_DOUBT:
        return _in_doubt_error(step, saved.isolated_in_doubt, "no further call is made")
    return None


def _is_final(ended: UnusableAnswer, unusable: int) -> bool:
    """Return whether the call is not repeated: after three answers, or after a second refusal."""
    return unusable >= _MAX_UNUSABLE or (unusable > 1 and ended.outcome.code == REFUSED)


def _repair_call(call: TextCall, instructions: str, ended: UnusableAnswer) -> TextCall:
    """Change a call after an unusable answer: more room after a cut, else or later a hint."""
    if ended.outcome.code == INCOMPLETE:
        call = replace(call, cuts=call.cuts + 1)
        if call.cuts == 1:
            return call
    return replace(call, instructions=prompts.add_repair_hint(instructions, ended.problem))


def _log_expired_permit(lease: Lease, step: Step) -> None:
    log.warning("permit expired before the call began, retrying", job=str(lease.job), step=step)


def _in_doubt_error(step: Step, times: int, last: str) -> Permanent:
    return Permanent(
        f"the {step} was begun {times} times and never answered, perhaps billed each time: {last}",
        code="in-doubt",
    )


def _prediction_error(ended: UnusablePrediction, unusable: int) -> Transient | Permanent:
    """Build the error that ends an attempt after an unusable prediction.

    The next attempt creates another prediction, unless the job is to blame, or too many were paid.
    The limit on paid predictions replaces the limit on attempts.
    """
    outcome = ended.outcome
    if ended.counts and unusable >= _MAX_UNUSABLE:
        return Permanent(
            f"gave up after {unusable} predictions: {outcome.reason}", code=outcome.code
        )
    error = outcome.to_error()
    if isinstance(error, Transient):
        error.blameless = True
    return error


async def _gather_both(article: Awaitable[Article], image: Awaitable[str]) -> tuple[Article, str]:
    """Wait for both even if one fails, so that the paid answer of the other is saved.

    A failure that is final goes first: a further attempt would pay for another image.
    """
    written, url = await asyncio.gather(article, image, return_exceptions=True)
    errors = [outcome for outcome in (written, url) if isinstance(outcome, BaseException)]
    if errors:
        raise next((error for error in errors if isinstance(error, Permanent)), errors[0])
    assert isinstance(written, Article)
    assert isinstance(url, str)
    return written, url


def _saved_image_url(saved: Mapping[Step, SavedStep]) -> str | None:
    """Return the image that an earlier attempt saved, before images were switched off."""
    image = saved.get(Step.IMAGE)
    return str(image.done["url"]) if image is not None and image.done is not None else None


def _assemble(article: Article, *, image_url: str | None) -> BlogPost:
    return BlogPost(
        title=to_plain_text(article.title, 200),
        slug=make_slug(article.slug, article.title),
        meta_description=to_plain_text(article.meta_description, 160),
        html=render_html(article),
        image_url=image_url,
    )
