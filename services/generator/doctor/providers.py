"""Checks each provider with the cheapest call that proves the set-up."""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import httpx
import orjson

from services.generator.blog.article import Outline
from services.generator.blog.prompts import OUTLINE_INSTRUCTIONS
from services.generator.doctor.image_rules import (
    ACCOUNT_FAULTS,
    MODEL_FAULTS,
    judge_inputs,
    judge_read,
)
from services.generator.doctor.rules import Finding, Status, Target, format_finding, judge_limits
from services.generator.doctor.text_rules import judge_answer, judge_features
from services.generator.providers.accounts.account import (
    ImageAccount,
    ProviderAccounts,
    TextAccount,
)
from services.generator.providers.accounts.provider_set import check_quota
from services.generator.providers.openai.client import create_text_client, post_call
from services.generator.providers.openai.outcomes import classify_text
from services.generator.providers.openai.requests import (
    CallText,
    ServerFeatures,
    build_body,
    expect_features,
    narrow_features,
)
from services.generator.providers.outcomes.outcome import CallResult, Outcome, OutcomeKind
from services.generator.providers.replicate.http import (
    ReplicateHttp,
    close_client,
    create_client,
)
from services.generator.providers.replicate.provider import FIXED_INPUTS
from shared.domain.errors import Unavailable
from shared.observability.log import get_logger

log = get_logger(__name__)

_NO_JOB = UUID(int=0)
"""The job of a check, in the provider's records."""
_OUTPUT_TOKENS = 16
"""The least that OpenAI's Responses API accepts."""
_TIMEOUT_S = 30.0
_MAX_CALLS = 8
"""Each call but the last leaves out one refused feature."""
_DATA = orjson.dumps({"title": "How to brew green tea", "language": "en"}).decode()


async def require_providers(accounts: ProviderAccounts, *, from_file: bool) -> None:
    """Check all providers. Raise `Unavailable` if a person must act before jobs can succeed."""
    findings = await check_providers(accounts, {}, from_file=from_file)
    blocking = find_blocking(accounts, findings)
    if blocking is not None:
        raise Unavailable(format_finding(blocking))
    for finding in findings:
        if finding.status is not Status.OK:
            log.warning("provider check", finding=format_finding(finding))


def require_quota(accounts: ProviderAccounts) -> None:
    """Raise `Unavailable` if no account for texts, or none for images, carries its largest call."""
    faults = find_quota_faults(accounts)
    failed = find_failed_need(accounts, faults)
    if failed is not None:
        raise faults[failed]
    for name, fault in faults.items():
        log.warning(
            "account serves no calls: its limit is too low", provider=name, reason=str(fault)
        )


def find_quota_faults(accounts: ProviderAccounts) -> dict[str, Unavailable]:
    """Return the faults of the accounts whose limits cannot carry one call, by their names."""
    alone = {text.name: ProviderAccounts(texts=(text,), images=()) for text in accounts.texts}
    alone |= {image.name: ProviderAccounts(texts=(), images=(image,)) for image in accounts.images}
    faults = {}
    for name, account in alone.items():
        try:
            check_quota(account)
        except Unavailable as error:
            faults[name] = error
    return faults


def find_blocking(accounts: ProviderAccounts, findings: Iterable[Finding]) -> Finding | None:
    """Return a finding that forbids the start: all accounts for texts, or for images, fail."""
    blocking = {finding.name: finding for finding in findings if finding.blocks_start}
    failed = find_failed_need(accounts, blocking)
    return blocking[failed] if failed is not None else None


def find_failed_need(accounts: ProviderAccounts, failed: Collection[str]) -> str | None:
    """Return the first account for texts, or for images, if all accounts for them have failed.

    Accounts that write on request only serve no other job: they do not count.
    """
    texts = [text.name for text in accounts.texts if not text.only_on_request]
    for names in (texts, [image.name for image in accounts.images]):
        if names and all(name in failed for name in names):
            return names[0]
    return None


async def check_providers(
    accounts: ProviderAccounts, skip: Mapping[str, str], *, from_file: bool = False
) -> list[Finding]:
    """Check all providers at once. `skip` holds reasons by the names of accounts to leave out.

    `from_file`: the accounts are entries of PROVIDERS_FILE, which findings then name.
    """
    names = [account.name for account in accounts.texts]
    names += [account.name for account in accounts.images]
    skipped = [
        Finding(name=name, status=Status.OK, detail=skip[name]) for name in names if name in skip
    ]
    groups = await asyncio.gather(
        *(check_text(account) for account in accounts.texts if account.name not in skip),
        *(check_images(account) for account in accounts.images if account.name not in skip),
    )
    found = [finding for group in groups for finding in group]
    return [*skipped, *(map(_name_file, found) if from_file else found)]


async def check_text(account: TextAccount) -> list[Finding]:
    """Make a production call of the outline with the smallest limit on its output."""
    expected = features = expect_features(account)
    async with create_text_client(account) as client:
        base_url = str(client.base_url).rstrip("/")
        for _ in range(_MAX_CALLS):
            path, body = build_body(features, account, _build_call(), Outline)
            headers = {"X-Blogstream-Job": str(_NO_JOB)}
            seconds = min(_TIMEOUT_S, account.timeout_s)
            result = await post_call(client, path, body, headers, seconds)
            outcome = classify_text(result, datetime.now(UTC))
            narrowed = _narrow(features, result, outcome)
            if narrowed is None:
                break
            features = narrowed
    target = Target(name=account.name, url=f"POST {base_url}{path}", model=account.model)
    finding = judge_answer(target, result, outcome, base_url=account.base_url)
    if finding.status is Status.FAILED:
        return [finding]
    limits = {
        "requests": ("OPENAI_RPM", account.requests),
        "tokens": ("OPENAI_TPM", account.tokens),
    }
    return [
        finding,
        *judge_features(target, expected, features),
        *judge_limits(target, result.headers, limits),
    ]


async def check_images(account: ImageAccount) -> list[Finding]:
    """Read the account of the token and the model's inputs. Creates no image."""
    client = create_client(account)
    try:
        async with httpx.AsyncClient() as http:
            return await _read_images(account, ReplicateHttp(client, http))
    finally:
        await close_client(client)


async def _read_images(account: ImageAccount, api: ReplicateHttp) -> list[Finding]:
    model = account.model.partition(":")[0]
    for path, faults in (("/v1/account", ACCOUNT_FAULTS), (f"/v1/models/{model}", MODEL_FAULTS)):
        target = Target(name=account.name, url=f"GET {api.base_url}{path}", model=account.model)
        result = await api.send("GET", path, job=_NO_JOB)
        finding = judge_read(faults, target, result)
        if finding is not None:
            return [finding]
    return [judge_inputs(target, result.body, {"prompt": "", **FIXED_INPUTS})]


def _name_file(finding: Finding) -> Finding:
    """Name the file instead of the variable of an account without a file."""
    if finding.variable is None:
        return finding
    detail = f"{finding.detail}; as {finding.variable}, in the entry of PROVIDERS_FILE"
    return replace(finding, variable="PROVIDERS_FILE", detail=detail)


def _build_call() -> CallText:
    return CallText(
        instructions=OUTLINE_INSTRUCTIONS,
        data=_DATA,
        labels={"job": str(_NO_JOB), "step": "provider-check"},
        max_output_tokens=_OUTPUT_TOKENS,
    )


def _narrow(
    features: ServerFeatures, result: CallResult, outcome: Outcome
) -> ServerFeatures | None:
    """Return what to send instead of a refused feature, as the provider's own calls do."""
    if outcome.kind not in (OutcomeKind.SETUP_FAULT, OutcomeKind.UNEXPLAINED):
        return None
    narrowed = narrow_features(features, result, outcome, sent_limit=_OUTPUT_TOKENS)
    return narrowed if narrowed != features else None
