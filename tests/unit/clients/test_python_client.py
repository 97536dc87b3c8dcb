"""clients/python where it is refused, cut off or misused: what is sent again, for how long, and what never leaves."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

import blogstream_client
from blogstream_client import Client, Event, ProblemError

JOB = "0198c0de-0000-7000-8000-000000000001"
README = Path(blogstream_client.__file__).parents[1] / "README.md"
TAKEN = {"id": JOB, "status": "PENDING", "sourceType": "topic", "sourceId": "a"}
DONE = TAKEN | {"status": "DONE"}


class Wire:
    """A server of scripted answers (the last one goes on), each taking `seconds`, and a clock that pauses move."""

    def __init__(self, *answers: Any, seconds: float = 0) -> None:
        self.answers, self.seconds = list(answers), seconds
        self.heard, self.paused = list[httpx.Request](), list[float]()
        self.now = 1_000.0

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.heard.append(request)
        self.now += self.seconds
        given = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(given, Exception):
            raise given
        assert isinstance(given, httpx.Response)
        return httpx.Response(given.status_code, headers=given.headers, content=given.content)

    def pause(self, seconds: float) -> None:
        self.paused.append(seconds)
        self.now += seconds

    @contextmanager
    def client(self, patience_s: float = 60) -> Iterator[Client]:
        http = httpx.Client(transport=httpx.MockTransport(self.answer))
        with Client(
            "http://x/",
            "k",
            patience_s=patience_s,
            http=http,
            pause=self.pause,
            clock=lambda: self.now,
        ) as client:
            yield client


def refusal(status: int, retry_after: str | None = None, **more: Any) -> httpx.Response:
    return httpx.Response(
        status,
        headers={} if retry_after is None else {"Retry-After": retry_after},
        json={"title": "Refused", "status": status, **more},
    )


def stream(*events: tuple[str, dict[str, Any]], cut: str = "") -> httpx.Response:
    text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    return httpx.Response(200, text=f"retry: 2000\n\n: still here\n\n{text}{cut}")


def test_it_comes_back_with_the_same_key_when_it_is_refused_for_now() -> None:
    wire = Wire(
        refusal(429, "7"), httpx.ConnectError("away"), refusal(503), httpx.Response(201, json=TAKEN)
    )
    with wire.client() as blogs:
        assert blogs.submit("topic", "a").id == JOB
    assert wire.paused == [7.0, 1.0, 1.0]
    assert len({request.headers["idempotency-key"] for request in wire.heard}) == 1


@pytest.mark.parametrize("seconds", [0, 2])
def test_patience_is_kept_whatever_takes_the_time(seconds: float) -> None:
    """No pause goes beyond it, and what requests take counts."""
    wire = Wire(refusal(503, "1"), seconds=seconds)
    with wire.client(patience_s=10) as blogs, pytest.raises(ProblemError, match="503"):
        blogs.submit("topic", "a")
    assert 1_008 <= wire.now <= 1_010 + seconds
    wire = Wire(refusal(429, "30"))
    with wire.client(patience_s=5) as blogs, pytest.raises(ProblemError) as refused:
        blogs.submit("topic", "a")
    assert (wire.paused, len(wire.heard), refused.value.retry_after_s) == ([], 1, 30)


@pytest.mark.parametrize(
    "final",
    [
        refusal(429, room=5),
        refusal(402, "60", resetsAt="2026-12-01T00:00:00Z"),
        refusal(422),
        refusal(404),
        httpx.LocalProtocolError("Illegal header value"),
        httpx.UnsupportedProtocol("ftp"),
    ],
)
def test_what_will_not_pass_is_said_at_once(final: Any) -> None:
    """A 429 without `Retry-After` is one of a call that can never fit."""
    wire = Wire(final)
    with wire.client() as blogs, pytest.raises((ProblemError, httpx.HTTPError)):
        blogs.submit_many([{"source_type": "topic", "source_id": "a"}])
    assert (len(wire.heard), wire.paused) == (1, [])


def test_a_cancel_whose_fate_is_unknown_is_not_sent_again() -> None:
    for answer in (httpx.ReadError("cut"), refusal(502)):
        wire = Wire(answer)
        with wire.client() as blogs, pytest.raises((ProblemError, httpx.HTTPError)):
            blogs.cancel(JOB)
        assert len(wire.heard) == 1
    wire = Wire(refusal(503, "1"), httpx.Response(200, json=TAKEN))
    with wire.client() as blogs:
        assert blogs.cancel(JOB).id == JOB


def test_a_stream_that_ends_before_its_job_is_opened_again() -> None:
    begun = ("progress", {"kind": "started", "status": "PROCESSING"})
    wire = Wire(
        stream(("job", TAKEN), begun),
        refusal(503, "5"),
        httpx.ConnectError("away"),
        refusal(404),
        stream(("job", TAKEN), cut='event: job\ndata: {"sta'),
        stream(("job", DONE)),
    )
    with wire.client() as blogs:
        heard = list(blogs.events(JOB))
    assert [(event.name, event.ended) for event in heard] == [
        ("job", False),
        ("progress", False),
        ("job", False),
        ("job", True),
    ]
    assert wire.paused == [1.0, 5.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (stream(), ConnectionError),
        (refusal(503, "5"), ProblemError),
        (refusal(404), ProblemError),
        (httpx.ReadTimeout("silent"), httpx.ReadTimeout),
    ],
)
def test_a_stream_that_never_comes_is_an_error_and_no_end(
    answer: Any, error: type[Exception]
) -> None:
    wire = Wire(answer)
    with wire.client(patience_s=20) as blogs, pytest.raises(error):
        list(blogs.events(JOB))
    assert 1_015 <= wire.now <= 1_020


def test_a_refused_stream_is_said_at_once() -> None:
    wire = Wire(refusal(401))
    with wire.client() as blogs, pytest.raises(ProblemError, match="401"):
        list(blogs.events(JOB))
    assert wire.paused == []


def test_waiting_lives_with_a_job_that_is_not_there_yet() -> None:
    wire = Wire(
        refusal(404),
        refusal(503, "2"),
        httpx.Response(200, json=TAKEN),
        httpx.Response(200, json=DONE),
    )
    with wire.client() as blogs:
        assert blogs.wait(JOB).ended
    assert wire.paused == [1.0, 2.0, 1.0]
    for patience_s, timeout_s in ((10, 600), (600, 10)):
        wire = Wire(refusal(404))
        with wire.client(patience_s) as blogs, pytest.raises(ProblemError, match="404"):
            blogs.wait(JOB, timeout_s=timeout_s)
        assert wire.now == 1_010


@pytest.mark.parametrize(
    "misuse",
    [
        lambda blogs: blogs.get("../../health"),
        lambda blogs: blogs.cancel("x/../y"),
        lambda blogs: list(blogs.events("")),
        lambda blogs: blogs.replay("1"),
        lambda blogs: list(blogs.deliveries("1")),
        lambda blogs: blogs.budget("../x"),
        lambda blogs: blogs.submit("topic", "a", idempotency_key="schlüssel"),
        lambda blogs: blogs.submit("topic", "a", idempotency_key="two\nlines"),
        lambda blogs: blogs.submit("topic", "a", idempotency_key=""),
        lambda blogs: blogs.submit("topic", "a", run_at=datetime(2027, 1, 1)),  # noqa: DTZ001 - the fault
    ],
)
def test_what_cannot_be_meant_is_not_sent(misuse: Callable[[Client], object]) -> None:
    wire = Wire(httpx.Response(200, json=TAKEN))
    with wire.client() as blogs, pytest.raises(ValueError, match=r"."):
        misuse(blogs)
    assert wire.heard == []


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("source_type", "sourceType"),
        ("source_id", "sourceId"),
        ("run_at", "runAt"),
        ("webhook_url", "webhookUrl"),
    ],
)
def test_a_field_by_both_of_its_names_is_not_sent(ours: str, theirs: str) -> None:
    """Nobody can say which one is meant; one that is None is left out."""
    wire = Wire(httpx.Response(201, json={"items": [TAKEN]}))
    whole = {
        "source_type": "topic",
        "source_id": "a",
        "run_at": "2027-01-02T03:00:00Z",
        "webhook_url": "https://a.example",
    }
    with wire.client() as blogs:
        for both in (whole | {theirs: "b"}, {theirs: "b"} | whole):
            with pytest.raises(ValueError, match=f"{ours} and {theirs} are one field"):
                blogs.submit_many([both])
        assert wire.heard == []
        blogs.submit_many([whole | {theirs: "b", ours: None}])
    assert json.loads(wire.heard[0].content)[0][theirs] == "b"


@pytest.mark.parametrize("key", ["", "schlüssel", "two\nlines", "sk_live_x ", "sk live"])
def test_a_key_that_cannot_be_one_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="API key"):
        Client("http://x", key)


def test_fields_have_pythons_names_and_types() -> None:
    wire = Wire(httpx.Response(201, json=TAKEN))
    at = datetime(2027, 1, 2, 3, tzinfo=UTC)
    with wire.client() as blogs:
        blogs.submit(
            "topic",
            "a",
            run_at=at,
            webhook_url="https://a.example",
            title=None,
            product={"run_at": at},
        )
        blogs.submit("topic", "a", runAt="2027-01-02T03:00:00Z")  # type: ignore[call-arg] # the interface's own name
    first, second = (json.loads(request.content) for request in wire.heard)
    assert first == {
        "sourceType": "topic",
        "sourceId": "a",
        "runAt": "2027-01-02T03:00:00+00:00",
        "webhookUrl": "https://a.example",
        "product": {"run_at": "2027-01-02T03:00:00+00:00"},
    }
    assert second["runAt"] == "2027-01-02T03:00:00Z"


def test_the_last_event_is_a_job_that_ended() -> None:
    assert Event(name="job", data=DONE).ended
    assert not Event(name="progress", data=DONE).ended


def test_the_examples_of_the_readme_run() -> None:
    """With this client, on a server that says what the real one does (tests/integration asks that one)."""
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    whole = DONE | {
        "post": {"title": "T", "slug": "s", "metaDescription": "", "html": "", "imageUrl": None}
    }

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return stream(("job", DONE))
        return httpx.Response(201 if request.method == "POST" else 200, json=whole)

    class Offline(Client):
        def __init__(self, base_url: str, key: str, **options: Any) -> None:
            super().__init__(
                base_url, key, http=httpx.Client(transport=httpx.MockTransport(answer)), **options
            )

    said = list[Any]()
    code = example.replace("from blogstream_client import Client\n", "").replace(
        "sk_live_…", "sk_live_x"
    )
    exec(
        code,
        {"Client": Offline, "datetime": datetime, "timedelta": timedelta, "print": said.append},
    )
    assert said[-1] == "T"
