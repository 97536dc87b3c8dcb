"""The provider checks: each wrong set-up is told apart, over HTTP, and its variable is named."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from sandbox.system.home import free_port
from services.generator.doctor.providers import (
    check_images,
    check_providers,
    check_text,
    require_providers,
    require_quota,
)
from services.generator.doctor.report import run_checks
from services.generator.doctor.rules import Cause, Finding, Status, format_finding
from services.generator.providers.accounts.account import (
    ImageAccount,
    ProviderAccounts,
    TextAccount,
)
from services.generator.providers.accounts.prices import Prices
from shared.domain.errors import Unavailable
from tests.support.strict_provider import (
    IMAGE_MODEL,
    KEY,
    TEXT_MODEL,
    TOKEN,
    StrictProvider,
    openai_error,
    replicate_error,
    start_strict_provider,
)

PRICES = Prices(input_usd=0.15, output_usd=0.60, image_usd=0.003)


@pytest.fixture
async def provider() -> AsyncIterator[StrictProvider]:
    async with start_strict_provider() as started:
        yield started


def text_account(provider: StrictProvider, **changes: Any) -> TextAccount:
    account = TextAccount(
        name="openai",
        key=SecretStr(KEY),
        base_url=f"{provider.url}/v1",
        api="auto",
        model=TEXT_MODEL,
        requests=500,
        tokens=200_000,
        prices=PRICES,
        timeout_s=5,
    )
    return replace(account, **changes)


def image_account(provider: StrictProvider, **changes: Any) -> ImageAccount:
    account = ImageAccount(
        name="replicate",
        token=SecretStr(TOKEN),
        base_url=provider.url,
        model=IMAGE_MODEL,
        requests=600,
        reads=3_000,
        prices=PRICES,
        timeout_s=5,
    )
    return replace(account, **changes)


def judged(finding: Finding) -> tuple[Status, Cause | None, str | None]:
    return finding.status, finding.cause, finding.variable


async def test_right_text_setup_is_proven_by_one_production_call(provider: StrictProvider) -> None:
    (finding,) = await check_text(text_account(provider))
    assert judged(finding) == (Status.OK, None, None)
    assert finding.url == f"POST {provider.url}/v1/responses"
    (body,) = provider.bodies
    assert body["max_output_tokens"] == 16
    assert body["text"]["format"]["strict"] is True
    assert body["text"]["format"]["name"] == "outline"
    assert (body["store"], "title" in body["text"]["format"]["schema"]["properties"]) == (
        False,
        True,
    )


async def test_server_without_responses_api_is_checked_by_chat(provider: StrictProvider) -> None:
    provider.answers["/v1/responses"] = JSONResponse({"detail": "Not Found"}, 404)
    (finding,) = await check_text(text_account(provider))
    assert judged(finding) == (Status.OK, None, None)
    assert provider.paths == ["/v1/responses", "/v1/chat/completions"]
    assert finding.url == f"POST {provider.url}/v1/chat/completions"


NO_MONEY = openai_error(
    429, "You exceeded your current quota, please check your plan.", code="insufficient_quota"
)
LOW_CREDIT = JSONResponse({"error": {"message": "Insufficient credits", "code": 402}}, 402)


@pytest.mark.parametrize(
    ("changes", "answer", "expected", "detail"),
    [
        (
            {"key": SecretStr("sk-wrong-0123456789")},
            None,
            (Status.FAILED, Cause.ACCOUNT, "OPENAI_API_KEY"),
            "the API key is refused",
        ),
        (
            {"model": "gpt-4o-mini-2"},
            None,
            (Status.FAILED, Cause.SETUP, "OPENAI_MODEL"),
            "the model is not known there, or the key may not use it",
        ),
        (
            {},
            NO_MONEY,
            (Status.FAILED, Cause.ACCOUNT, "OPENAI_API_KEY"),
            "the account has no money left, or its spending limit is reached: pay, or use the key"
            " of another account",
        ),
        (
            {},
            LOW_CREDIT,
            (Status.FAILED, Cause.ACCOUNT, "OPENAI_API_KEY"),
            "the account has no money left, or its spending limit is reached: pay, or use the key"
            " of another account",
        ),
        (
            {},
            openai_error(429, "Rate limit reached for requests", code="rate_limit_exceeded"),
            (Status.WARNING, Cause.OUTAGE, "OPENAI_RPM"),
            "the key is accepted, and the provider limits calls now: jobs will wait",
        ),
        (
            {},
            openai_error(503, "The engine is overloaded", code=None),
            (Status.FAILED, Cause.OUTAGE, "OPENAI_BASE_URL"),
            "the server fails: an outage, or a wrong address",
        ),
        (
            {},
            openai_error(
                403, "Project does not have access to this organization.", code="permission_error"
            ),
            (Status.FAILED, Cause.ACCOUNT, "OPENAI_API_KEY"),
            "the key may not use this model or address",
        ),
        (
            {},
            openai_error(
                400, "Unsupported parameter: 'input'.", code="unsupported_parameter", param="input"
            ),
            (Status.FAILED, Cause.SETUP, "OPENAI_MODEL"),
            "the model refuses a parameter that every call has",
        ),
        (
            {},
            PlainTextResponse("hello"),
            (Status.FAILED, Cause.OUTAGE, "OPENAI_BASE_URL"),
            "the answer is not of this protocol",
        ),
    ],
)
async def test_wrong_text_setup_is_told_apart(
    provider: StrictProvider,
    changes: dict[str, Any],
    answer: Response | None,
    expected: tuple[Status, Cause, str],
    detail: str,
) -> None:
    if answer is not None:
        provider.answers["/v1/responses"] = answer
    findings = await check_text(text_account(provider, **changes))
    assert judged(findings[0]) == expected
    assert findings[0].detail == detail
    assert KEY not in format_finding(findings[0])


async def test_address_without_version_is_named_with_its_path(provider: StrictProvider) -> None:
    (finding,) = await check_text(text_account(provider, base_url=provider.url))
    assert judged(finding) == (Status.FAILED, Cause.SETUP, "OPENAI_BASE_URL")
    assert finding.detail == "the address does not know this path; most addresses end in /v1"
    assert finding.url in (
        f"POST {provider.url}/responses",
        f"POST {provider.url}/chat/completions",
    )


async def test_web_page_instead_of_an_api_is_named_by_its_title(provider: StrictProvider) -> None:
    (finding,) = await check_text(text_account(provider, base_url=f"{provider.url}/website"))
    assert judged(finding) == (Status.FAILED, Cause.SETUP, "OPENAI_BASE_URL")
    assert finding.detail == (
        "the address answers with a web page, not as an API; most addresses end in /v1"
    )
    assert finding.words == "web page: Our shop"


async def test_address_without_a_server_is_an_outage(provider: StrictProvider) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    (text,) = await check_text(text_account(provider, base_url=f"{dead}/v1"))
    (image,) = await check_images(image_account(provider, base_url=dead))
    assert judged(text) == (Status.FAILED, Cause.OUTAGE, "OPENAI_BASE_URL")
    assert judged(image) == (Status.FAILED, Cause.OUTAGE, "REPLICATE_BASE_URL")
    assert text.detail == image.detail == "no connection to the address"


async def test_silent_server_ends_at_the_timeout(provider: StrictProvider) -> None:
    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)
        writer.close()

    silent = await asyncio.start_server(hold, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/v1"
    (finding,) = await check_text(text_account(provider, base_url=url, timeout_s=0.3))
    silent.close()
    assert judged(finding) == (Status.FAILED, Cause.OUTAGE, "OPENAI_TIMEOUT_S")


async def test_refused_schema_is_a_warning_if_calls_succeed_without(
    provider: StrictProvider,
) -> None:
    provider.refuses_schema = True
    accepted, warning = await check_text(text_account(provider))
    assert judged(accepted) == (Status.OK, None, None)
    assert judged(warning) == (Status.WARNING, Cause.SETUP, "OPENAI_MODEL")
    assert warning.detail.startswith(
        "the strict schema of the answer is refused; calls use JSON mode"
    )
    assert [body["text"]["format"]["type"] for body in provider.bodies] == [
        "json_schema",
        "json_object",
    ]


async def test_schema_refused_in_every_form_is_a_failure(provider: StrictProvider) -> None:
    provider.answers["/v1/responses"] = openai_error(
        400, "Invalid schema for response_format 'outline'", code="invalid_json_schema"
    )
    (finding,) = await check_text(text_account(provider))
    assert judged(finding) == (Status.FAILED, Cause.SETUP, "OPENAI_MODEL")
    assert finding.detail == "the strict schema of the answer is refused"


async def test_refused_effort_is_a_warning_if_calls_succeed_without(
    provider: StrictProvider,
) -> None:
    provider.refused_parameters = ("reasoning",)
    accepted, warning = await check_text(text_account(provider, reasoning_effort="high"))
    assert judged(accepted) == (Status.OK, None, None)
    assert judged(warning) == (Status.WARNING, Cause.SETUP, "OPENAI_REASONING_EFFORT")


async def test_limits_above_the_reported_ones_are_warnings(provider: StrictProvider) -> None:
    provider.limits = {"x-ratelimit-limit-requests": "3", "x-ratelimit-limit-tokens": "40000"}
    _, requests, tokens = await check_text(text_account(provider))
    assert judged(requests) == (Status.WARNING, Cause.SETUP, "OPENAI_RPM")
    assert judged(tokens) == (Status.WARNING, Cause.SETUP, "OPENAI_TPM")
    assert tokens.detail.endswith("a limit of 40000 tokens a minute: set OPENAI_TPM=40000")
    within = await check_text(text_account(provider, requests=3, tokens=40_000))
    assert [finding.status for finding in within] == [Status.OK]


@pytest.mark.parametrize("value", ["0", "-1", "many", ""])
async def test_limit_that_says_nothing_is_ignored(provider: StrictProvider, value: str) -> None:
    provider.limits = {"x-ratelimit-limit-requests": value}
    assert len(await check_text(text_account(provider))) == 1


async def test_right_image_setup_is_read_and_costs_nothing(provider: StrictProvider) -> None:
    (finding,) = await check_images(image_account(provider))
    assert judged(finding) == (Status.OK, None, None)
    assert provider.paths == ["/v1/account", f"/v1/models/{IMAGE_MODEL}"]


@pytest.mark.parametrize(
    ("changes", "answers", "expected", "detail"),
    [
        (
            {"token": SecretStr("r8_wrong0123456789")},
            {},
            (Status.FAILED, Cause.ACCOUNT, "REPLICATE_API_TOKEN"),
            "the API token is refused",
        ),
        (
            {"model": "black-forest-labs/flux-slow"},
            {},
            (Status.FAILED, Cause.SETUP, "REPLICATE_MODEL"),
            "the model does not exist, or the token may not use it",
        ),
        (
            {},
            {"/v1/account": replicate_error(402, "Payment required", "No credit left.")},
            (Status.FAILED, Cause.ACCOUNT, "REPLICATE_API_TOKEN"),
            "the account has no money left: pay, or use the token of another account",
        ),
        (
            {},
            {"/v1/account": JSONResponse({"detail": "Request was throttled."}, 429)},
            (Status.WARNING, Cause.OUTAGE, "REPLICATE_READ_RPM"),
            "the token is accepted, and the provider limits calls now: jobs will wait",
        ),
        (
            {},
            {"/v1/account": PlainTextResponse("bad gateway", 502)},
            (Status.FAILED, Cause.OUTAGE, "REPLICATE_BASE_URL"),
            "the server fails: an outage, or a wrong address",
        ),
        (
            {},
            {"/v1/account": HTMLResponse("<html><body>Login</body></html>")},
            (Status.FAILED, Cause.SETUP, "REPLICATE_BASE_URL"),
            "the address answers with a web page, not as an API",
        ),
    ],
)
async def test_wrong_image_setup_is_told_apart(
    provider: StrictProvider,
    changes: dict[str, Any],
    answers: dict[str, Response],
    expected: tuple[Status, Cause, str],
    detail: str,
) -> None:
    provider.answers |= answers
    (finding,) = await check_images(image_account(provider, **changes))
    assert judged(finding) == expected
    assert finding.detail == detail
    assert TOKEN not in format_finding(finding)


async def test_image_address_with_version_is_named(provider: StrictProvider) -> None:
    (finding,) = await check_images(image_account(provider, base_url=f"{provider.url}/v1"))
    assert judged(finding) == (Status.FAILED, Cause.SETUP, "REPLICATE_BASE_URL")
    assert finding.url == f"GET {provider.url}/v1/v1/account"


@pytest.mark.parametrize(
    ("inputs", "required", "status", "detail"),
    [
        (
            ("prompt", "width", "height"),
            ("prompt",),
            Status.FAILED,
            "the model does not know inputs that are sent: aspect_ratio, output_format",
        ),
        (
            ("image", "scale"),
            ("image",),
            Status.FAILED,
            "the model takes no prompt: it does not make images from texts",
        ),
        (
            ("prompt", "aspect_ratio", "output_format", "mask"),
            ("prompt", "mask"),
            Status.FAILED,
            "the model requires inputs that are not sent: mask",
        ),
    ],
)
async def test_inputs_of_the_image_model_are_compared(
    provider: StrictProvider,
    inputs: tuple[str, ...],
    required: tuple[str, ...],
    status: Status,
    detail: str,
) -> None:
    provider.image_inputs, provider.required_inputs = inputs, required
    (finding,) = await check_images(image_account(provider))
    assert (finding.status, finding.detail) == (status, detail)
    assert finding.variable == "REPLICATE_MODEL"


async def test_values_of_the_inputs_are_compared(provider: StrictProvider) -> None:
    provider.image_formats = ("webp", "jpg")
    (finding,) = await check_images(image_account(provider))
    assert judged(finding) == (Status.FAILED, Cause.SETUP, "REPLICATE_MODEL")
    assert finding.detail == "the model does not allow output_format png, which is sent"


async def test_model_without_schema_is_a_warning(provider: StrictProvider) -> None:
    provider.image_inputs = None
    (finding,) = await check_images(image_account(provider))
    assert finding.status is Status.WARNING


async def test_start_is_refused_for_a_set_up_fault_and_not_for_an_outage(
    provider: StrictProvider,
) -> None:
    dead = f"http://127.0.0.1:{free_port()}/v1"
    outage = ProviderAccounts(texts=(text_account(provider, base_url=dead),), images=())
    await require_providers(outage, from_file=False)
    wrong = ProviderAccounts(
        texts=(text_account(provider, key=SecretStr("sk-wrong-0123456789")),), images=()
    )
    with pytest.raises(Unavailable, match=r"the API key is refused.*change OPENAI_API_KEY"):
        await require_providers(wrong, from_file=False)


async def test_start_is_refused_only_if_all_accounts_of_a_need_fail(
    provider: StrictProvider,
) -> None:
    wrong = text_account(provider, name="second", key=SecretStr("sk-wrong-0123456789"))
    first = text_account(provider)
    await require_providers(ProviderAccounts(texts=(wrong, first), images=()), from_file=True)
    on_request = replace(first, only_on_request=True)
    with pytest.raises(Unavailable, match="second: the API key is refused"):
        await require_providers(
            ProviderAccounts(texts=(on_request, wrong), images=()), from_file=True
        )
    bad_image = image_account(provider, token=SecretStr("r8_wrong"))
    with pytest.raises(Unavailable, match="replicate"):
        await require_providers(
            ProviderAccounts(texts=(first,), images=(bad_image,)), from_file=False
        )


async def test_account_that_carries_no_call_stops_no_other(provider: StrictProvider) -> None:
    small = text_account(provider, name="small", tokens=100)
    require_quota(ProviderAccounts(texts=(small, text_account(provider)), images=()))
    with pytest.raises(Unavailable, match="OPENAI_TPM is 100"):
        require_quota(ProviderAccounts(texts=(small,), images=()))
    no_images = image_account(provider, reads=0.5)
    with pytest.raises(Unavailable, match="REPLICATE_READ_RPM"):
        require_quota(ProviderAccounts(texts=(text_account(provider),), images=(no_images,)))


async def test_unpriced_model_of_the_providers_file_is_a_finding(
    provider: StrictProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "providers.toml"
    entry = {"base_url": f'"{provider.url}/v1"', "key": '"FILE_KEY"'}
    entry |= {"requests_per_minute": "500", "tokens_per_minute": "200000"}
    lines = "\n".join(f"{name} = {value}" for name, value in entry.items())
    texts = [
        f'[[text]]\nname = "{name}"\nmodel = "{model}"\n{lines}\n'
        for name, model in (("main", TEXT_MODEL), ("house", "unpriced-model"))
    ]
    file.write_text("".join(texts))
    for name, value in {
        "PROVIDERS_FILE": str(file),
        "FILE_KEY": KEY,
        "IMAGES": "off",
        "DATABASE_URL": "postgresql://localhost/none",
        "KAFKA_BOOTSTRAP_SERVERS": "localhost:1",
    }.items():
        monkeypatch.setenv(name, value)
    findings = await run_checks({"postgresql": "", "kafka": ""})
    price = next(finding for finding in findings if finding.name == "settings")
    assert price.status is Status.FAILED
    assert "model unpriced-model of account house" in price.detail
    checked = {finding.name: finding.status for finding in findings}
    assert checked["main"] is Status.OK, "the providers are checked all the same"


async def test_skipped_provider_is_not_called(provider: StrictProvider) -> None:
    accounts = ProviderAccounts(texts=(text_account(provider),), images=(image_account(provider),))
    findings = await check_providers(accounts, {"openai": "a stand-in"})
    assert [(finding.name, finding.status) for finding in findings] == [
        ("openai", Status.OK),
        ("replicate", Status.OK),
    ]
    assert "/v1/responses" not in provider.paths


async def test_entry_of_the_providers_file_is_named(provider: StrictProvider) -> None:
    wrong = text_account(provider, name="second", key=SecretStr("sk-wrong-0123456789"))
    accounts = ProviderAccounts(texts=(wrong,), images=(image_account(provider),))
    text, image = await check_providers(accounts, {}, from_file=True)
    assert (text.name, text.variable) == ("second", "PROVIDERS_FILE")
    assert text.detail.endswith("; as OPENAI_API_KEY, in the entry of PROVIDERS_FILE")
    assert judged(image) == (Status.OK, None, None)
