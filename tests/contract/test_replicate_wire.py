"""The image provider over HTTP, against a server that answers as Replicate does in the wild."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import SecretStr
from starlette.responses import JSONResponse, RedirectResponse, Response

from services.generator.providers.accounts.account import ImageAccount
from services.generator.providers.accounts.prices import Prices
from services.generator.providers.outcomes.outcome import Outcome, OutcomeKind
from services.generator.providers.replicate import provider as replicate_provider
from services.generator.providers.replicate import reads
from services.generator.providers.replicate.http import close_client, create_client
from services.generator.providers.replicate.prediction import Prediction
from services.generator.providers.replicate.provider import ReplicateImageProvider
from services.generator.providers.replicate.reads import GeneratedImage, UnusablePrediction
from services.generator.quota.provider_limiter import ProviderLimiter
from services.generator.quota.rules import FIRST
from shared.domain.errors import Permanent, Transient
from tests.support.scripted_replicate import (
    PNG,
    SUCCEEDED,
    Plan,
    ScriptedReplicate,
    failed,
    png_response,
    start_scripted_replicate,
)

ACCOUNT = ImageAccount(
    name="replicate-main",
    token=SecretStr("r8-secret"),
    model="owner/model",
    requests=60_000,
    reads=60_000,
    prices=Prices(input_usd=0, output_usd=0, image_usd=0.003),
    timeout_s=2.5,
)
STARTING, PROCESSING = {"status": "starting"}, {"status": "processing"}


class Images:
    """The provider with its limiters, and the server that it calls."""

    def __init__(
        self,
        provider: ReplicateImageProvider,
        limiter: ProviderLimiter,
        reads: ProviderLimiter,
        server: ScriptedReplicate,
    ) -> None:
        self.provider = provider
        self.limiter = limiter
        self.reads = reads
        self.server = server

    async def paint(self, *plans: Plan, job: UUID | None = None) -> GeneratedImage:
        job = job or uuid4()
        if plans:
            self.server.script(job, *plans)
        prediction = await self.provider.create_prediction(job, "a tent at dawn")
        return await self.provider.fetch_image(job, prediction)


@pytest.fixture(autouse=True)
def quick_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(reads, "_MAX_PAUSE_S", 0.1)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedReplicate]:
    async with start_scripted_replicate() as scripted:
        yield scripted


def make_limiter(**limits: float) -> ProviderLimiter:
    limiter = ProviderLimiter(provider="replicate", model="m", limits=limits, burst_s=2)
    limiter.assign_share((0,), 1, {name: limit / 60 for name, limit in limits.items()})
    return limiter


@asynccontextmanager
async def open_images(server: ScriptedReplicate, **changes: Any) -> AsyncIterator[Images]:
    account = replace(ACCOUNT, **{"base_url": server.url, **changes})
    limiter, reads = make_limiter(requests=60_000), make_limiter(reads=60_000)
    client = create_client(account)
    async with httpx.AsyncClient(follow_redirects=True) as http:
        provider = ReplicateImageProvider(
            client, http, account, limiter=limiter, read_limiter=reads
        )
        yield Images(provider, limiter, reads, server)
    await close_client(client)


@pytest.fixture
async def images(server: ScriptedReplicate) -> AsyncIterator[Images]:
    async with open_images(server) as opened:
        yield opened


async def test_quick_image_needs_no_read(images: Images) -> None:
    image = await images.paint()
    assert (image.content, image.media_type) == (PNG, "image/png")
    assert (image.usage.images, image.usage.cost_nanousd) == (1, 3_000_000)
    assert images.server.reads.total() == 0
    (headers,) = images.server.creation_headers
    assert headers["authorization"] == "Bearer r8-secret"


@pytest.mark.parametrize(
    ("timeout_s", "prefer", "cancel_after"),
    [(300, "wait=5", "330s"), (9.5, "wait=2", "40s"), (3, None, "33s")],
)
async def test_creation_waits_for_a_part_of_the_deadline(
    server: ScriptedReplicate, timeout_s: float, prefer: str | None, cancel_after: str
) -> None:
    async with open_images(server, timeout_s=timeout_s) as images:
        await images.paint()
    (headers,) = server.creation_headers
    assert (headers.get("prefer"), headers["cancel-after"]) == (prefer, cancel_after)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("owner/model", "/v1/models/owner/model/predictions"),
        ("owner/model:0a1b", "/v1/predictions"),
        ("0a1b", "/v1/predictions"),
    ],
)
async def test_model_is_named_by_path_or_version(model: str, path: str) -> None:
    assert replicate_provider._creation_request(model)[0] == path
    assert replicate_provider._creation_request(model)[1].get("version") in (None, "0a1b")


@pytest.mark.parametrize("status", ["queued", "booting", "processing"])
async def test_prediction_of_an_unknown_status_is_awaited(images: Images, status: str) -> None:
    image = await images.paint(Plan(views=[{"status": status}] * 3 + [SUCCEEDED]))
    assert image.content == PNG
    assert images.server.reads.total() == 3


@pytest.mark.parametrize(
    "blip",
    [
        Response("<html>Bad gateway</html>", 502),
        JSONResponse({"detail": "slow", "retry_after": 0.1}, 429),
        JSONResponse({"detail": "not found"}, 404),
        Response("", 200),
        JSONResponse([], 200),
    ],
    ids=["502", "429", "404 of a new prediction", "empty", "list"],
)
async def test_one_failed_read_does_not_end_the_attempt(images: Images, blip: Response) -> None:
    image = await images.paint(Plan(views=[STARTING, blip, PROCESSING, SUCCEEDED]))
    assert image.content == PNG
    assert images.server.creations.total() == 1


async def test_isolated_read_failures_never_open_the_circuit(images: Images) -> None:
    """Each job meets one 502, more often than an outage needs."""
    for _ in range(12):
        await images.paint(Plan(views=[STARTING, Response("bad", 502), SUCCEEDED]))
        assert not images.limiter.circuit_open
        assert not images.reads.circuit_open


async def test_prediction_whose_reads_fail_troubles_no_other_job(images: Images) -> None:
    poison = asyncio.create_task(
        images.paint(Plan(views=[STARTING, JSONResponse({"detail": "broken"}, 500)]))
    )
    while not poison.done():
        assert (await images.paint()).content == PNG
        assert not images.limiter.circuit_open
        await asyncio.sleep(0.05)
    with pytest.raises(UnusablePrediction) as ended:
        await poison
    assert ended.value.outcome.kind is OutcomeKind.OUTAGE
    assert len(images.server.cancelled) == 1


async def test_prediction_in_an_unknown_state_counts_as_paid(images: Images) -> None:
    down = Response("down", 500)
    with pytest.raises(UnusablePrediction) as ended:
        await images.paint(Plan(views=[STARTING, down], after_cancel=down))
    assert ended.value.outcome.in_doubt
    assert ended.value.counts
    assert ended.value.usage.images == 0


async def test_two_unreadable_predictions_do_not_wait_for_ever(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without other jobs their own failed reads keep the circuit open."""
    plan = Plan(views=[STARTING, Response("down", 500)])
    jobs = [uuid4(), uuid4()]
    for job in jobs:
        images.server.script(job, plan)
    made = [await images.provider.create_prediction(job, "x") for job in jobs]
    await asyncio.gather(*map(images.provider.fetch_image, jobs, made), return_exceptions=True)
    assert images.limiter.circuit_open
    with pytest.raises(Transient):
        await images.provider.fetch_image(jobs[0], Prediction(id=made[0].id, age_s=60))
    monkeypatch.setattr(reads, "_LATE_S", 0.5)
    with pytest.raises(UnusablePrediction):
        await images.provider.fetch_image(jobs[0], Prediction(id=made[0].id, age_s=4_000))


async def test_outage_of_reads_keeps_the_prediction(images: Images) -> None:
    down = Response("<html>", 503)
    plan = Plan(views=[STARTING, down])
    jobs = [uuid4(), uuid4()]
    for job in jobs:
        images.server.script(job, plan)
    made = [await images.provider.create_prediction(job, "x") for job in jobs]
    ends = await asyncio.gather(
        *map(images.provider.fetch_image, jobs, made), return_exceptions=True
    )
    assert images.limiter.circuit_open
    assert all(isinstance(end, Transient) and end.blameless for end in ends)
    assert images.server.cancelled == []
    plan.views = [SUCCEEDED]
    image = await images.provider.fetch_image(jobs[0], Prediction(id=made[0].id, age_s=1))
    assert image.content == PNG
    assert not images.limiter.circuit_open, "a served read closes the circuit"


async def test_throttled_reads_lower_the_pace_of_reads_only(images: Images) -> None:
    throttled = JSONResponse({"detail": "slow", "retry_after": 0.2}, 429)
    for _ in range(2):
        await images.paint(Plan(views=[STARTING, throttled, SUCCEEDED]))
    (creations,), (reads,) = images.limiter.build_reports(), images.reads.build_reports()
    assert creations.pace == 1
    assert reads.pace < 1


async def test_low_credit_throttle_waits_as_long_as_the_body_says(images: Images) -> None:
    refusal = JSONResponse({"detail": "Request was throttled.", "retry_after": 9}, 429)
    for job in (uuid4(), uuid4()):
        images.server.script(job, Plan(creation=refusal))
        with pytest.raises(Transient) as error:
            await images.provider.create_prediction(job, "x")
        assert error.value.blameless
        assert error.value.delay == pytest.approx(9, abs=0.5)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await images.provider.acquire_permit(uuid4(), FIRST)
    assert images.limiter.build_reports()[0].pace < 1


async def test_reads_raise_no_learned_pace_of_creations(images: Images) -> None:
    job = uuid4()
    refusal = JSONResponse({"detail": "slow", "retry_after": 1}, 429)
    for refused in (uuid4(), job):
        images.server.script(refused, Plan(creation=refusal))
        with pytest.raises(Transient):
            await images.provider.create_prediction(refused, "x")
    before = images.limiter.build_reports()[0].pace
    images.server.script(job, Plan(views=[STARTING, *[PROCESSING] * 20, SUCCEEDED]))
    await images.paint(job=job)
    after = images.limiter.build_reports()[0].pace
    assert after <= before * 1.6, "one creation was served"


async def test_model_that_refuses_every_prediction_opens_the_circuit(images: Images) -> None:
    """Creations are accepted all the same: only a finished image proves that the model serves."""
    plan = Plan(views=[failed("The version does not exist")])
    for _ in range(2):
        with pytest.raises(UnusablePrediction) as ended:
            await images.paint(plan)
        assert ended.value.outcome.kind is OutcomeKind.SETUP_FAULT
    assert images.limiter.circuit_open
    with pytest.raises(UnusablePrediction):
        await images.paint(plan)
    assert images.limiter.circuit_open, "an accepted creation closes nothing"
    await images.paint()
    assert not images.limiter.circuit_open


async def test_image_of_a_paid_account_closes_the_circuit(images: Images) -> None:
    for _ in range(2):
        with pytest.raises(Transient):
            await images.paint(Plan(creation=Response("no credit", 402)))
    assert images.limiter.circuit_open
    await images.paint(Plan(views=[STARTING, SUCCEEDED]))
    assert not images.limiter.circuit_open


@pytest.mark.parametrize(
    ("view", "after_cancel", "images_billed", "counts"),
    [
        (STARTING, {"status": "aborted"}, 0, False),
        ({"status": "queued"}, {"status": "aborted"}, 0, False),
        (PROCESSING, {"status": "canceled"}, 1, True),
        (STARTING, Response("down", 503), 0, False),
        (PROCESSING, Response("down", 503), 1, True),
    ],
    ids=["starting", "queued", "processing", "starting, no cancel", "processing, no cancel"],
)
async def test_prediction_past_its_deadline_is_cancelled(
    images: Images, view: dict[str, Any], after_cancel: Any, images_billed: int, counts: bool
) -> None:
    began = asyncio.get_running_loop().time()
    with pytest.raises(UnusablePrediction) as ended:
        await images.paint(Plan(views=[view], after_cancel=after_cancel))
    took = asyncio.get_running_loop().time() - began
    assert ACCOUNT.timeout_s <= took < ACCOUNT.timeout_s + 1.5
    assert len(images.server.cancelled) == 1
    assert ended.value.outcome.kind is OutcomeKind.OUTAGE
    assert (ended.value.usage.images, ended.value.counts) == (images_billed, counts)


async def test_deadline_includes_the_creation(server: ScriptedReplicate) -> None:
    async with open_images(server, timeout_s=1.0) as images:
        began = asyncio.get_running_loop().time()
        with pytest.raises(UnusablePrediction):
            await images.paint(Plan(hang_s=0.7, views=[STARTING]))
        assert asyncio.get_running_loop().time() - began < 1.6


async def test_prediction_that_ends_while_it_is_cancelled_is_kept(images: Images) -> None:
    job = uuid4()
    images.server.script(job, Plan(views=[PROCESSING], after_cancel=SUCCEEDED))
    prediction = await images.provider.create_prediction(job, "x")
    with pytest.raises(Transient) as error:
        await images.provider.fetch_image(job, prediction)
    assert error.value.blameless
    late = Prediction(id=prediction.id, age_s=60)
    assert (await images.provider.fetch_image(job, late)).content == PNG


async def test_prediction_of_an_earlier_attempt_is_read_once_past_its_deadline(
    images: Images,
) -> None:
    job = uuid4()
    images.server.script(job, Plan(views=[STARTING]))
    prediction = await images.provider.create_prediction(job, "x")
    began = asyncio.get_running_loop().time()
    with pytest.raises(UnusablePrediction):
        await images.provider.fetch_image(job, Prediction(id=prediction.id, age_s=999))
    assert asyncio.get_running_loop().time() - began < 1
    assert images.server.cancelled == [str(job)]


async def test_late_creation_is_in_doubt(server: ScriptedReplicate) -> None:
    async with open_images(server, timeout_s=0.3) as images:
        with pytest.raises(Transient) as error:
            await images.paint(Plan(hang_s=1.0))
    assert (error.value.code, error.value.in_doubt) == ("replicate-timeout", True)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9", "http://xn--a.example", "htp://127.0.0.1", "127.0.0.1:9"]
)
async def test_creation_without_connection_is_not_in_doubt(
    server: ScriptedReplicate, address: str
) -> None:
    async with open_images(server, base_url=address) as images:
        with pytest.raises(Transient) as error:
            await images.paint()
    assert (error.value.code, error.value.in_doubt) == ("replicate-unreachable", False)
    assert error.value.blameless


@pytest.mark.parametrize(
    ("error", "kind", "counts"),
    [
        ("Prediction interrupted; please retry (code: PA)", OutcomeKind.OUTAGE, False),
        ("CUDA out of memory. Tried to allocate 1.5 GiB", OutcomeKind.OUTAGE, False),
        ("index 7 is out of bounds", OutcomeKind.ANSWER_FAULT, True),
        ("NSFW content detected", OutcomeKind.REQUEST_FAULT, False),
    ],
)
async def test_failed_prediction_is_judged_by_its_error(
    images: Images, error: str, kind: OutcomeKind, counts: bool
) -> None:
    with pytest.raises(UnusablePrediction) as ended:
        await images.paint(Plan(views=[failed(error)]))
    assert (ended.value.outcome.kind, ended.value.counts) == (kind, counts)
    assert ended.value.usage.images == 0


async def test_refused_input_is_the_request_s_fault_once_others_are_served(
    images: Images,
) -> None:
    job = uuid4()
    plan = Plan(views=[failed("Invalid value for guidance")])
    with pytest.raises(UnusablePrediction) as first:
        await images.paint(plan, job=job)
    assert isinstance(first.value.outcome.to_error(), Transient)
    await images.paint()
    with pytest.raises(UnusablePrediction) as second:
        await images.paint(plan, job=job)
    assert isinstance(second.value.outcome.to_error(), Permanent)


@pytest.mark.parametrize(
    "status",
    [400, 401, 402, 403, 404, 405, 408, 409, 422, 429, 500, 502, 503, 504, 522, 524, 529, 599],
)
async def test_refused_creation_never_fails_a_job_without_words(
    images: Images, status: int
) -> None:
    with pytest.raises(Transient) as error:
        await images.paint(Plan(creation=Response("<html>no</html>", status)))
    assert error.value.blameless
    assert error.value.in_doubt == (status in (504, 522, 524, 599))


async def test_flagged_prompt_fails_its_job_alone(images: Images) -> None:
    flagged = JSONResponse({"detail": "Your prompt was flagged by moderation"}, 403)
    for _ in range(3):
        with pytest.raises(Permanent) as error:
            await images.paint(Plan(creation=flagged))
        assert error.value.code == "replicate-flagged"
    assert (await images.paint()).content == PNG


def forms_of_output(url: str) -> list[Any]:
    return [url, [url], [{"url": url}], {"image": url}, {"images": [[url]]}]


@pytest.mark.parametrize("form", range(5))
async def test_output_in_any_form_is_fetched(images: Images, form: int) -> None:
    job = uuid4()
    output = forms_of_output(f"/v1/files/{job}.1.png")[form]
    image = await images.paint(Plan(views=[{"status": "succeeded", "output": output}]), job=job)
    assert image.content == PNG


@pytest.mark.parametrize("output", [None, "", [], {}, [None], "a tent", 7])
async def test_missing_output_is_billed_and_counted(images: Images, output: Any) -> None:
    with pytest.raises(UnusablePrediction) as ended:
        await images.paint(Plan(views=[{"status": "succeeded", "output": output}]))
    assert ended.value.outcome.code == "replicate-no-output"
    assert (ended.value.usage.images, ended.value.counts) == (1, True)


@pytest.mark.parametrize(
    ("file", "code"),
    [
        (Response(b"", media_type="image/png"), "replicate-file-empty"),
        (Response("<html>", media_type="image/png"), "replicate-file-no-image"),
        (Response("<svg/>", media_type="image/svg+xml"), "replicate-file-no-image"),
        (JSONResponse({"error": "?"}), "replicate-file-no-image"),
        (Response(PNG[:-9], media_type="image/png"), "replicate-file-cut"),
        (Response(PNG + bytes(17 * 2**20)), "replicate-file-too-large"),
        (Response("gone", 404), "replicate-file-gone"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_unusable_file_is_billed_and_counted(
    images: Images, file: Response, code: str
) -> None:
    with pytest.raises(UnusablePrediction) as ended:
        await images.paint(Plan(files=[file]))
    assert ended.value.outcome.code == code
    assert (ended.value.usage.images, ended.value.counts) == (1, True)


@pytest.mark.parametrize("bad", [Response(PNG[:-9]), Response(b""), Response("<html>busy</html>")])
async def test_bad_file_is_fetched_again_before_another_is_paid(
    images: Images, bad: Response
) -> None:
    assert (await images.paint(Plan(files=[bad, png_response()]))).content == PNG
    assert images.server.creations.total() == 1


@pytest.mark.parametrize("address", ["https://xn--a.example/a.png", "http://xn--/a.png"])
async def test_invalid_address_is_an_unusable_answer(images: Images, address: str) -> None:
    view = {"status": "succeeded", "output": address}
    with pytest.raises(UnusablePrediction) as ended:
        await images.paint(Plan(views=[view]))
    assert ended.value.outcome.code == "replicate-file-refused"


async def test_expired_address_is_read_again(images: Images) -> None:
    image = await images.paint(Plan(files=[Response("expired", 403), png_response()]))
    assert image.content == PNG
    assert images.server.reads.total() == 1


async def test_failing_file_server_is_asked_again(images: Images) -> None:
    files = [Response("", 503), Response("", 429), Response("", 500), png_response()]
    assert (await images.paint(Plan(files=files))).content == PNG
    assert images.server.creations.total() == 1


async def test_paid_file_is_fetched_by_a_later_attempt(images: Images) -> None:
    job = uuid4()
    images.server.script(job, Plan(files=[*[Response("", 503)] * 40, png_response()]))
    prediction = await images.provider.create_prediction(job, "x")
    with pytest.raises(Transient) as error:
        await images.provider.fetch_image(job, prediction)
    assert error.value.code == "replicate-file-pending"
    assert images.server.cancelled == []
    late = Prediction(id=prediction.id, age_s=600)
    assert (await images.provider.fetch_image(job, late)).content == PNG


async def test_token_goes_to_the_api_s_own_host_only(images: Images) -> None:
    async with start_scripted_replicate() as foreign:
        await foreign_prediction(foreign)
        foreign_url = f"{foreign.url}/v1/files/prediction.1.png"
        await images.paint(Plan(views=[{"status": "succeeded", "output": foreign_url}]))
        await images.paint(Plan(files=[RedirectResponse(foreign_url)]))
        assert [headers.get("authorization") for headers in foreign.file_headers] == [None, None]
    (own,) = images.server.file_headers
    assert own["authorization"] == "Bearer r8-secret"


async def foreign_prediction(server: ScriptedReplicate) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        await client.post("/v1/predictions")


def cool_reads(images: Images, seconds: float) -> None:
    """Let reads of two other jobs be throttled: nothing is read for so many seconds."""
    throttled = Outcome(
        kind=OutcomeKind.THROTTLED, code="replicate-read-429", reason="slow", delay=seconds
    )
    for _ in range(2):
        now = images.reads.now()
        images.reads.record_outcome(throttled, job=uuid4(), call="image read", requested_at=now)


@pytest.mark.parametrize("view", [STARTING, PROCESSING])
@pytest.mark.parametrize(
    ("is_paused", "code"),
    [(True, "replicate-read-pending"), (False, "provider-cooling")],
    ids=["rebalance", "cooling"],
)
async def test_prediction_is_kept_while_reads_get_no_permit(
    images: Images, view: dict[str, Any], is_paused: bool, code: str
) -> None:
    """The prediction has succeeded meanwhile: a paid image is not thrown away."""
    job = uuid4()
    images.server.script(job, Plan(views=[view, SUCCEEDED]))
    prediction = await images.provider.create_prediction(job, "x")
    if is_paused:
        images.reads.pause_grants()
    else:
        cool_reads(images, 60)
    with pytest.raises(Transient) as error:
        await images.provider.fetch_image(job, prediction)
    assert (error.value.code, error.value.blameless) == (code, True)
    assert images.server.cancelled == []


async def test_prediction_of_an_earlier_attempt_is_kept_until_it_is_read(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "_LATE_S", 0.3)
    monkeypatch.setattr(reads, "_CANCEL_S", 0.1)
    job = uuid4()
    images.server.script(job, Plan(views=[PROCESSING]))
    prediction = await images.provider.create_prediction(job, "x")
    images.reads.pause_grants()
    for _ in range(3):
        with pytest.raises(Transient):
            await images.provider.fetch_image(job, Prediction(id=prediction.id, age_s=60))
    with pytest.raises(UnusablePrediction) as ended:
        await images.provider.fetch_image(job, Prediction(id=prediction.id, age_s=4_000))
    assert ended.value.outcome.in_doubt, "after an hour its file is gone"
    images.reads.assign_share((0,), 1, {"reads": 1_000})
    with pytest.raises(UnusablePrediction) as ended:
        await images.provider.fetch_image(job, Prediction(id=prediction.id, age_s=60))
    assert ended.value.outcome.code == "replicate-overdue", "it can be read, and runs too long"
    assert images.server.cancelled == [str(job)]


async def test_prediction_is_kept_if_its_cancel_gets_no_permit(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "_CANCEL_S", 0.1)
    monkeypatch.setattr(reads, "_MAX_PAUSE_S", 9.0)
    monkeypatch.setattr(reads, "_FIRST_PAUSE_S", 9.0)
    job = uuid4()
    images.server.script(job, Plan(views=[PROCESSING]))
    prediction = await images.provider.create_prediction(job, "x")
    images.reads.pause_grants()
    with pytest.raises(Transient) as error:
        await images.provider.fetch_image(job, prediction)
    assert error.value.code == "replicate-read-pending"


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_rejected_account_keeps_the_predictions_of_earlier_attempts(
    images: Images, status: int
) -> None:
    job = uuid4()
    images.server.script(job, Plan(views=[STARTING, Response("no", status)]))
    prediction = await images.provider.create_prediction(job, "x")
    with pytest.raises(Transient) as error:
        await images.provider.fetch_image(job, Prediction(id=prediction.id, age_s=60))
    assert error.value.blameless
    assert images.server.cancelled == []


async def test_prediction_that_is_gone_is_in_doubt(images: Images) -> None:
    with pytest.raises(UnusablePrediction) as ended:
        await images.provider.fetch_image(uuid4(), Prediction(id="deleted", age_s=1))
    assert ended.value.outcome.code == "replicate-gone"
    assert ended.value.outcome.in_doubt
    assert ended.value.counts
