"""Validation of request bodies, ids, fingerprints, and closed admission."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.http.rules import InvalidRequestError
from services.ingest.submit import rules
from shared.domain.job import SourceType
from shared.domain.messages import AdmissionState, BlogRequested
from shared.kafka.envelope import decode_message, encode_message

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
GOOD = {"sourceType": "keyword", "sourceId": "test-load-1"}
JOB = UUID("019392d0-0000-7000-8000-000000000001")


def nested(levels: int) -> dict[str, Any]:
    product: dict[str, Any] = {}
    for _ in range(levels - 1):
        product = {"a": product}
    return product


def parse_to_message(**fields: Any) -> BlogRequested:
    return rules.to_message(
        rules.parse_request(GOOD | fields, now=NOW), job=JOB, store="shop", now=NOW
    )


def errors_of(body: Any) -> list[dict[str, Any]]:
    with pytest.raises(InvalidRequestError) as refused:
        rules.parse_request(body, now=NOW)
    return refused.value.errors


def test_minimal_request_gets_documented_defaults() -> None:
    assert parse_to_message() == BlogRequested(
        id=JOB,
        store="shop",
        source_type=SourceType.KEYWORD,
        source_id="test-load-1",
        created_at=NOW,
    )


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"sourceId": "x" * 200}, "source_id", "x" * 200),
        (
            {"title": "Tee\u00a0Shirt 茶\u3000葉 👨\u200d👩\u200d👧"},
            "title",
            "Tee\u00a0Shirt 茶\u3000葉 👨\u200d👩\u200d👧",
        ),
        ({"keywords": ["x" * 100] * 20}, "keywords", ("x" * 100,) * 20),
        ({"language": "zh-Hant-TW"}, "language", "zh-Hant-TW"),
        ({"product": nested(32)}, "product", nested(32)),
        (
            {"product": {"text": r"a\u0000b as six letters"}},
            "product",
            {"text": r"a\u0000b as six letters"},
        ),
        ({"product": None, "title": None, "runAt": None, "webhookUrl": None}, "product", None),
        ({"runAt": "2026-12-01T08:00:00+01:00"}, "run_at", datetime(2026, 12, 1, 7, tzinfo=UTC)),
        ({"runAt": "2026-11-24T11:59Z"}, "run_at", NOW - timedelta(minutes=1)),
        (
            {"webhookUrl": "https://shop.example:8443/a?b=c"},
            "webhook_url",
            "https://shop.example:8443/a?b=c",
        ),
        (
            {"webhookUrl": "https://shop.example?at=a@b"},
            "webhook_url",
            "https://shop.example?at=a@b",
        ),
        ({"webhookUrl": "HTTPS://Shop.example"}, "webhook_url", "HTTPS://Shop.example"),
        ({"priority": -100, "images": 0}, "priority", -100),
    ],
)
def test_valid_field_is_accepted_unchanged(fields: dict[str, Any], name: str, value: Any) -> None:
    assert getattr(parse_to_message(**fields), name) == value


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"sourceType": "rumour"}, "sourceType"),
        ({"sourceType": 1}, "sourceType"),
        ({"sourceId": ""}, "sourceId"),
        ({"sourceId": " \u00a0"}, "sourceId"),
        ({"sourceId": "x" * 201}, "sourceId"),
        ({"sourceId": "a\x00b"}, "sourceId"),
        ({"sourceId": "a\nb"}, "sourceId"),
        ({"sourceId": None}, "sourceId"),
        ({"soureId": "typo"}, "soureId"),
        ({"source_id": "x"}, "source_id"),
        ({"title": "x" * 301}, "title"),
        ({"title": "bell \x07"}, "title"),
        ({"title": " \u00a0 "}, "title"),
        ({"tone": " "}, "tone"),
        ({"keywords": ["ok", "  "]}, "keywords.1"),
        ({"keywords": "tea"}, "keywords"),
        ({"keywords": ["x"] * 21}, "keywords"),
        ({"keywords": ["ok", ""]}, "keywords.1"),
        ({"language": "not a language"}, "language"),
        ({"language": "en\n"}, "language"),
        ({"tone": "x" * 101}, "tone"),
        ({"priority": 101}, "priority"),
        ({"priority": True}, "priority"),
        ({"images": 2}, "images"),
        ({"images": 1.0}, "images"),
        ({"product": []}, "product"),
        ({"product": {"a": "x" * 65_536}}, "product"),
        ({"product": nested(33)}, "product"),
        ({"product": nested(900)}, "product"),
        ({"product": {"a": "nul \x00"}}, "product"),
        ({"product": {"nul \x00": "a"}}, "product"),
        ({"product": {"a": "\\\x00"}}, "product"),
        ({"webhookUrl": "http://plain.example"}, "webhookUrl"),
        ({"webhookUrl": "https://"}, "webhookUrl"),
        *(
            ({"webhookUrl": f"https://{host}/"}, "webhookUrl")
            for host in (
                "shop.example:99999",
                "shop.example:abc",
                "shop.example:0",
                "[::1",
                "a..b",
                "10.0.0.1",
                "[::1]",
            )
        ),
        ({"webhookUrl": "https://user:pw@shop.example"}, "webhookUrl"),
        ({"webhookUrl": "https://shop.example/\x00"}, "webhookUrl"),
        ({"webhookUrl": "https://shop.example/" + "x" * 2_000}, "webhookUrl"),
        ({"runAt": "tomorrow"}, "runAt"),
        ({"runAt": "2026-12-01T08:00:00"}, "runAt"),
        ({"runAt": "2026-13-01T08:00:00Z"}, "runAt"),
        ({"runAt": 1_795_539_600}, "runAt"),
        ({"runAt": "1795539600"}, "runAt"),
        ({"runAt": "2027-11-26T12:00:00Z"}, "runAt"),
        ({"runAt": "0001-01-01T00:00:00+23:59"}, "runAt"),
    ],
)
def test_invalid_field_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    (error,) = errors_of(GOOD | fields)
    assert error["field"] == field
    assert error["detail"]
    assert "Value error" not in error["detail"]


@pytest.mark.parametrize("body", [None, [GOOD], "text", 7, True])
def test_body_must_be_an_object(body: Any) -> None:
    assert errors_of(body) == [{"field": "body", "detail": "must be a JSON object"}]


def test_all_invalid_fields_are_named_up_to_a_bound() -> None:
    assert [error["field"] for error in errors_of({"priority": "high"})] == [
        "sourceType",
        "sourceId",
        "priority",
    ]
    assert len(errors_of(GOOD | {f"field{number}": 1 for number in range(1_000)})) == 50


json_text = st.text(st.characters(codec="utf-8"), max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | json_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(json_text, inner, max_size=4),
    max_leaves=20,
)
run_ats = st.datetimes(
    datetime(2025, 10, 1),  # noqa: DTZ001 - zone drawn separately
    datetime(2028, 1, 1),  # noqa: DTZ001
    timezones=st.timezones(),
).map(lambda at: at.isoformat(timespec="minutes"))


def all_texts(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value, including keys."""
    if isinstance(value, str):
        yield value
    for inner in (
        [*value, *value.values()]
        if isinstance(value, dict)
        else value
        if isinstance(value, list)
        else ()
    ):
        yield from all_texts(inner)


@given(
    st.fixed_dictionaries(
        {"sourceType": st.sampled_from(["keyword", "product"]), "sourceId": json_text},
        optional={"title": json_text, "product": json_values, "tone": json_text, "runAt": run_ats},
    )
)
def test_accepted_request_survives_kafka_and_jsonb(body: dict[str, Any]) -> None:
    """Kafka's readers decode the same request, and it holds no U+0000, which jsonb refuses."""
    try:
        message = rules.to_message(
            rules.parse_request(body, now=NOW), job=JOB, store="shop", now=NOW
        )
    except InvalidRequestError:
        return
    value, headers = encode_message(message, source="test")
    assert decode_message(value, headers) == message
    assert not [text for text in all_texts(orjson.loads(value)) if "\x00" in text]


def test_fresh_id_is_used_without_idempotency_key() -> None:
    assert rules.job_id("shop", None, JOB) == JOB


def test_idempotency_key_determines_id_within_store() -> None:
    first = rules.job_id("shop", "order-1", uuid4())
    assert (
        rules.job_id("shop", '"order-1"', uuid4())
        == rules.job_id("shop", " order-1 ", uuid4())
        == first
    )
    assert (
        len(
            {
                first,
                rules.job_id("shop", "order-2", JOB),
                rules.job_id("other", "order-1", JOB),
                JOB,
            }
        )
        == 4
    )
    assert first == UUID("897f24b0-b2ae-5e98-a17f-7760470d9e7e"), (
        "a restart or an upgrade must not change it"
    )


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "a\tb"])
def test_invalid_idempotency_key_is_refused(key: str) -> None:
    with pytest.raises(InvalidRequestError, match="Idempotency-Key"):
        rules.job_id("shop", key, JOB)


def closed(store: str, resets_at: datetime | None = None) -> AdmissionState:
    reason = "queue-full" if resets_at is None else "budget-exceeded"
    return AdmissionState(
        store=store, closed=True, reason=reason, retry_after_s=5, at=NOW, resets_at=resets_at
    )


def test_admission_reopens_when_the_budget_resets() -> None:
    states = {"shop": closed("shop", NOW)}
    assert rules.closed_state(states, "shop", NOW - timedelta(seconds=1)) == states["shop"]
    assert rules.closed_state(states, "shop", NOW) is None


def test_admission_is_closed_per_store_or_for_all() -> None:
    own, whole = {"shop": closed("shop")}, {"shop": closed("shop"), "*": closed("*")}
    assert rules.closed_state({}, "shop", NOW) is None
    assert rules.closed_state(own, "shop", NOW) == closed("shop")
    assert rules.closed_state(own, "other", NOW) is None
    assert (
        rules.closed_state(whole, "other", NOW)
        == rules.closed_state(whole, "shop", NOW)
        == closed("*")
    )


def test_model_is_one_that_the_operator_offers() -> None:
    policy = rules.RequestPolicy(models=("gpt-4o-mini", "llama-3.1-70b"))
    body = rules.parse_request(GOOD | {"model": "llama-3.1-70b"}, now=NOW, policy=policy)
    assert rules.to_message(body, job=JOB, store="s", now=NOW).model == "llama-3.1-70b"
    with pytest.raises(InvalidRequestError, match=r"must be one of gpt-4o-mini, llama-3\.1-70b"):
        rules.parse_request(GOOD | {"model": "gpt-5"}, now=NOW, policy=policy)
    with pytest.raises(InvalidRequestError, match="offers no models"):
        rules.parse_request(GOOD | {"model": "gpt-4o-mini"}, now=NOW)


def test_pinned_store_gets_the_model_of_its_account() -> None:
    policy = rules.RequestPolicy(models=("a", "b"), pinned_models={"shop": "a"})
    for model in (None, "a"):
        policy.check_model("shop", model)
    policy.check_model("other", "b")
    with pytest.raises(InvalidRequestError, match="model: must be a for this store"):
        policy.check_model("shop", "b")


def test_fingerprint_of_released_fields_never_changes() -> None:
    """Idempotency keys of the last seven days meet the requests of a new release."""
    body = rules.parse_request(GOOD, now=NOW)
    assert rules.fingerprint(body) == "1a7bbbe689e841bdb27c0c0f356b1372"
    with_model = body.model_copy(update={"model": "gpt-4o-mini"})
    assert rules.fingerprint(with_model) != rules.fingerprint(body)


def test_fingerprint_depends_on_field_values_only() -> None:
    def fingerprint(**fields: Any) -> str:
        body = {"sourceType": "keyword", "sourceId": "tea"} | fields
        return rules.fingerprint(rules.parse_request(body, now=NOW))

    assert (
        fingerprint()
        == fingerprint(language="en", priority=0, title=None)
        == fingerprint(keywords=[])
    )
    assert fingerprint(runAt="2026-12-01T08:00:00Z") == fingerprint(
        runAt="2026-12-01T09:00:00+01:00"
    )
    assert fingerprint(product={"a": 1, "b": 2}) == fingerprint(product={"b": 2, "a": 1})
    assert (
        len(
            {
                fingerprint(),
                fingerprint(title="x"),
                fingerprint(keywords=["x"]),
                fingerprint(product={"a": 1}),
                fingerprint(product={"a": 2}),
            }
        )
        == 5
    )
    rules.check_same_request(fingerprint(), fingerprint())
    with pytest.raises(InvalidRequestError, match="Idempotency-Key: was used for another request"):
        rules.check_same_request(fingerprint(title="x"), fingerprint())
