"""What ingest decides, without HTTP: which bodies are requests, their ids, closed doors, where a list goes on."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.auth import rules as tickets
from services.ingest.submit import rules
from services.ingest.submit.rules import RefusedError
from shared.domain.job import SourceType, Status
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


def accepted(**fields: Any) -> BlogRequested:
    return rules.to_message(
        rules.judge_body(GOOD | fields, now=NOW), job=JOB, store="shop", now=NOW
    )


def refused(body: Any) -> list[dict[str, Any]]:
    with pytest.raises(RefusedError) as refusal:
        rules.judge_body(body, now=NOW)
    return refusal.value.errors


def test_the_least_request_has_the_documented_defaults() -> None:
    assert accepted() == BlogRequested(
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
def test_what_is_within_the_limits_is_taken_as_it_came(
    fields: dict[str, Any], name: str, value: Any
) -> None:
    assert getattr(accepted(**fields), name) == value


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
def test_what_is_not_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    (fault,) = refused(GOOD | fields)
    assert fault["field"] == field
    assert fault["detail"]
    assert "Value error" not in fault["detail"]


@pytest.mark.parametrize("body", [None, [GOOD], "text", 7, True])
def test_only_an_object_is_a_request(body: Any) -> None:
    assert refused(body) == [{"field": "body", "detail": "must be a JSON object"}]


def test_all_that_is_wrong_is_named_at_once_and_within_bounds() -> None:
    assert [fault["field"] for fault in refused({"priority": "high"})] == [
        "sourceType",
        "sourceId",
        "priority",
    ]
    assert len(refused(GOOD | {f"field{number}": 1 for number in range(1_000)})) == 50


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
    datetime(2025, 10, 1),  # noqa: DTZ001 # zone drawn separately
    datetime(2028, 1, 1),  # noqa: DTZ001
    timezones=st.timezones(),
).map(lambda at: at.isoformat(timespec="minutes"))


def texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    for inner in (
        [*value, *value.values()]
        if isinstance(value, dict)
        else value
        if isinstance(value, list)
        else ()
    ):
        yield from texts(inner)


@given(
    st.fixed_dictionaries(
        {"sourceType": st.sampled_from(["keyword", "product"]), "sourceId": json_text},
        optional={"title": json_text, "product": json_values, "tone": json_text, "runAt": run_ats},
    )
)
def test_what_is_accepted_can_be_read_by_those_who_come_after(body: dict[str, Any]) -> None:
    """Kafka's readers get the very same request, and nothing in it is what PostgreSQL's jsonb would refuse."""
    try:
        message = rules.to_message(rules.judge_body(body, now=NOW), job=JOB, store="shop", now=NOW)
    except RefusedError:
        return
    value, headers = encode_message(message, source="test")
    assert decode_message(value, headers) == message
    assert not [text for text in texts(orjson.loads(value)) if "\x00" in text]


def test_a_fresh_id_is_taken_when_no_idempotency_key_is_given() -> None:
    assert rules.job_id("shop", None, JOB) == JOB


def test_an_idempotency_key_decides_the_id_within_its_store() -> None:
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
def test_an_idempotency_key_that_says_nothing_is_refused(key: str) -> None:
    with pytest.raises(RefusedError, match="Idempotency-Key"):
        rules.job_id("shop", key, JOB)


def pending(**columns: Any) -> dict[str, Any]:
    return {"status": "PENDING", "not_before": None} | columns


def test_why_a_job_waits() -> None:
    later = NOW + timedelta(seconds=1)
    assert rules.why_waiting(pending(not_before=later), NOW) == {
        "reason": "not before",
        "until": later,
    }
    assert rules.why_waiting(pending(not_before=NOW), NOW) == {"reason": "fair turn", "until": None}
    assert rules.why_waiting(pending(), NOW) == {"reason": "fair turn", "until": None}
    assert rules.why_waiting(pending(forwarded_at=NOW), NOW) == {
        "reason": "on its way to a worker",
        "until": None,
    }
    others = [status for status in Status if status is not Status.PENDING]
    assert [
        rules.why_waiting(pending(status=status, not_before=later), NOW) for status in others
    ] == [None] * 5


def test_until_when_a_job_waits_is_told_by_its_place_in_its_store() -> None:
    said = {
        "reason": "TPM",
        "limited_by": "TPM",
        "queued": 11,
        "ahead": 0,
        "first_at": NOW + timedelta(seconds=10),
        "last_at": NOW + timedelta(seconds=110),
        "forwarded_at": None,
    }
    first = rules.why_waiting(pending(before_it=0, **said), NOW)
    fifth = rules.why_waiting(pending(before_it=4, **said), NOW)
    assert first == {
        "reason": "TPM",
        "until": NOW + timedelta(seconds=10),
        "place": 1,
        "limitedBy": "TPM",
    }
    assert fifth == {
        "reason": "fair turn",
        "until": NOW + timedelta(seconds=50),
        "place": 5,
        "limitedBy": "TPM",
    }
    capped = rules.why_waiting(
        pending(before_it=4, **said | {"reason": "store cap", "first_at": None}), NOW
    )
    assert capped == {"reason": "store cap", "until": None, "place": 5, "limitedBy": "TPM"}
    much_later = NOW + timedelta(hours=1)
    assert rules.why_waiting(pending(before_it=99, **said), much_later)["until"] == much_later  # type: ignore[index]


def test_jobs_behind_those_that_fit_wait_for_the_budget() -> None:
    said = {
        "reason": "TPM",
        "limited_by": "TPM",
        "queued": 2,
        "held": 3,
        "first_at": NOW,
        "last_at": NOW,
    }
    reset = datetime(NOW.year + NOW.month // 12, NOW.month % 12 + 1, 1, tzinfo=UTC)
    told = [rules.why_waiting(pending(before_it=place, **said), NOW) for place in range(5)]
    assert [one and one["reason"] for one in told] == [
        "TPM",
        "fair turn",
        "budget",
        "budget",
        "budget",
    ]
    assert told[2] == {"reason": "budget", "until": reset, "place": 3, "limitedBy": "TPM"}
    none_fits = said | {
        "reason": "budget",
        "limited_by": None,
        "queued": 0,
        "first_at": None,
        "last_at": None,
    }
    first = rules.why_waiting(pending(before_it=0, **none_fits), NOW)
    assert first == {"reason": "budget", "until": reset, "place": 1, "limitedBy": None}


def gate(store: str, resets_at: datetime | None = None) -> AdmissionState:
    reason = "queue-full" if resets_at is None else "budget-exceeded"
    return AdmissionState(
        store=store, closed=True, reason=reason, retry_after_s=5, at=NOW, resets_at=resets_at
    )


def test_a_door_that_a_budget_has_closed_is_open_once_it_has_begun_anew() -> None:
    gates = {"shop": gate("shop", NOW)}
    assert rules.door(gates, "shop", NOW - timedelta(seconds=1)) == gates["shop"]
    assert rules.door(gates, "shop", NOW) is None


def test_a_closed_door_is_ones_own_or_everybodys() -> None:
    own, whole = {"shop": gate("shop")}, {"shop": gate("shop"), "*": gate("*")}
    assert rules.door({}, "shop", NOW) is None
    assert rules.door(own, "shop", NOW) == gate("shop")
    assert rules.door(own, "other", NOW) is None
    assert rules.door(whole, "other", NOW) == rules.door(whole, "shop", NOW) == gate("*")


@pytest.mark.parametrize(("seconds", "header"), [(0, 1), (0.2, 1), (1, 1), (1.2, 2), (60, 60)])
def test_retry_after_is_in_whole_seconds_and_never_now(seconds: float, header: int) -> None:
    assert rules.retry_after(seconds) == header


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 # zone apart
    st.uuids(),
)
def test_a_cursor_brings_back_the_place_it_was_made_from(at: datetime, job: UUID) -> None:
    cursor = rules.cursor_of(at, job)
    assert rules.read_cursor(cursor) == (at, job)
    assert cursor.replace("-", "").replace("_", "").isalnum()


@given(st.text(max_size=80))
def test_any_other_text_is_no_cursor(text: str) -> None:
    with pytest.raises(RefusedError, match="cursor"):
        rules.read_cursor(text)


def test_a_cursor_made_by_hand_does_no_harm() -> None:
    beyond = rules.cursor_of(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23))), JOB)
    zoneless = rules.cursor_of(NOW.replace(tzinfo=None), JOB)
    for cursor in (beyond, zoneless):
        with pytest.raises(RefusedError):
            rules.read_cursor(cursor)


@pytest.mark.parametrize("text", ["0", "101", "-1", "x", "", "1e1", "²", "0x1"])
def test_limits_are_plain_numbers(text: str) -> None:
    with pytest.raises(RefusedError, match="limit"):
        rules.read_limit(text)


def test_statuses_and_limits_that_are_known() -> None:
    assert (rules.read_limit("1"), rules.read_limit("100")) == (1, 100)
    assert rules.read_status("DONE") is Status.DONE
    with pytest.raises(
        RefusedError, match="PENDING, PROCESSING, DONE, FAILED, REJECTED, CANCELLED"
    ):
        rules.read_status("OPEN")


def test_a_requests_fingerprint_is_that_of_its_fields() -> None:
    def of(**fields: Any) -> str:
        body = {"sourceType": "keyword", "sourceId": "tea"} | fields
        return rules.fingerprint(rules.judge_body(body, now=NOW))

    assert of() == of(language="en", priority=0, title=None) == of(keywords=[])
    assert of(runAt="2026-12-01T08:00:00Z") == of(runAt="2026-12-01T09:00:00+01:00")
    assert of(product={"a": 1, "b": 2}) == of(product={"b": 2, "a": 1})
    assert (
        len({of(), of(title="x"), of(keywords=["x"]), of(product={"a": 1}), of(product={"a": 2})})
        == 5
    )
    rules.judge_repeat(of(), of())
    with pytest.raises(RefusedError, match="Idempotency-Key: was used for another request"):
        rules.judge_repeat(of(title="x"), of())


def test_a_ticket_is_good_for_its_time_and_no_longer_whoever_made_it() -> None:
    key, held = bytes(range(32)), tickets.Rules(valid_s=60)

    def is_good(text: str, *, now: float, held: tickets.Rules = held) -> bool:
        found = tickets.read(text)
        return found is not None and found.is_valid(key, held, job=JOB, now=now)

    text, ends = tickets.issue(JOB, key, held, now=1_000)
    assert (ends, [is_good(text, now=at) for at in (940, 1_000, 1_059, 1_060)]) == (
        1_060,
        [True, True, True, False],
    )
    by_a_thief, _ = tickets.issue(JOB, key, tickets.Rules(valid_s=1e9), now=1_000)
    assert not is_good(by_a_thief, now=1_000)
    endless, _ = tickets.issue(JOB, key, tickets.Rules(valid_s=float("inf")), now=1_000)
    assert not is_good(endless, now=1_000)


def test_with_a_secret_the_hash_of_a_key_signs_no_tickets() -> None:
    key, held = bytes(range(32)), tickets.Rules(valid_s=60, secret=b"known to ingest alone")
    for signed_by, good in ((held, True), (tickets.Rules(valid_s=60), False)):
        ticket = tickets.read(tickets.issue(JOB, key, signed_by, now=1_000)[0])
        assert ticket is not None
        assert ticket.is_valid(key, held, job=JOB, now=1_000) == good
