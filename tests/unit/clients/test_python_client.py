"""The Python client's retries, streams and argument checks, against a scripted server."""

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
PENDING = {"id": JOB, "status": "PENDING", "sourceType": "topic", "sourceId": "a"}
DONE = PENDING | {"status": "DONE"}


class ScriptedServer:
    """Gives scripted answers, each after `seconds`; the last one repeats. Pauses move its clock."""

    def __init__(self, *answers: Any, seconds: float = 0) -> None:
        self.answers, self.seconds = list(answers), seconds
        self.requests, self.pauses = list[httpx.Request](), list[float]()
        self.now = 1_000.0

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.now += self.seconds
        scripted = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(scripted, Exception):
            raise scripted
        assert isinstance(scripted, httpx.Response)
        return httpx.Response(
            scripted.status_code, headers=scripted.headers, content=scripted.content
        )

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
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


def test_retries_keep_the_idempotency_key() -> None:
    server = ScriptedServer(
        refusal(429, "7"),
        httpx.ConnectError("away"),
        refusal(503),
        httpx.Response(201, json=PENDING),
    )
    with server.client() as blogs:
        assert blogs.submit("topic", "a").id == JOB
    assert server.pauses == [7.0, 1.0, 1.0]
    assert len({request.headers["idempotency-key"] for request in server.requests}) == 1


@pytest.mark.parametrize("seconds", [0, 2])
def test_retries_end_at_the_deadline(seconds: float) -> None:
    """No pause exceeds the deadline, and the duration of requests counts."""
    server = ScriptedServer(refusal(503, "1"), seconds=seconds)
    with server.client(patience_s=10) as blogs, pytest.raises(ProblemError, match="503"):
        blogs.submit("topic", "a")
    assert 1_008 <= server.now <= 1_010 + seconds
    server = ScriptedServer(refusal(429, "30"))
    with server.client(patience_s=5) as blogs, pytest.raises(ProblemError) as refused:
        blogs.submit("topic", "a")
    assert (server.pauses, len(server.requests), refused.value.retry_after_s) == ([], 1, 30)


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
def test_final_errors_are_raised_at_once(final: Any) -> None:
    """A 429 without `Retry-After` is final: the call is too large for the queue."""
    server = ScriptedServer(final)
    with server.client() as blogs, pytest.raises((ProblemError, httpx.HTTPError)):
        blogs.submit_many([{"source_type": "topic", "source_id": "a"}])
    assert (len(server.requests), server.pauses) == (1, [])


def test_cancel_with_an_unknown_effect_is_not_repeated() -> None:
    for answer in (httpx.ReadError("cut"), refusal(502)):
        server = ScriptedServer(answer)
        with server.client() as blogs, pytest.raises((ProblemError, httpx.HTTPError)):
            blogs.cancel(JOB)
        assert len(server.requests) == 1
    server = ScriptedServer(refusal(503, "1"), httpx.Response(200, json=PENDING))
    with server.client() as blogs:
        assert blogs.cancel(JOB).id == JOB


def test_stream_that_ends_before_its_job_is_reopened() -> None:
    started = ("progress", {"kind": "started", "status": "PROCESSING"})
    server = ScriptedServer(
        stream(("job", PENDING), started),
        refusal(503, "5"),
        httpx.ConnectError("away"),
        refusal(404),
        stream(("job", PENDING), cut='event: job\ndata: {"sta'),
        stream(("job", DONE)),
    )
    with server.client() as blogs:
        events = list(blogs.events(JOB))
    assert [(event.name, event.ended) for event in events] == [
        ("job", False),
        ("progress", False),
        ("job", False),
        ("job", True),
    ]
    assert server.pauses == [1.0, 5.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (stream(), ConnectionError),
        (refusal(503, "5"), ProblemError),
        (refusal(404), ProblemError),
        (httpx.ReadTimeout("silent"), httpx.ReadTimeout),
    ],
)
def test_stream_that_never_opens_raises_the_last_error(answer: Any, error: type[Exception]) -> None:
    server = ScriptedServer(answer)
    with server.client(patience_s=20) as blogs, pytest.raises(error):
        list(blogs.events(JOB))
    assert 1_015 <= server.now <= 1_020


def test_refused_stream_raises_at_once() -> None:
    server = ScriptedServer(refusal(401))
    with server.client() as blogs, pytest.raises(ProblemError, match="401"):
        list(blogs.events(JOB))
    assert server.pauses == []


def test_wait_tolerates_a_job_that_does_not_exist_yet() -> None:
    server = ScriptedServer(
        refusal(404),
        refusal(503, "2"),
        httpx.Response(200, json=PENDING),
        httpx.Response(200, json=DONE),
    )
    with server.client() as blogs:
        assert blogs.wait(JOB).ended
    assert server.pauses == [1.0, 2.0, 1.0]
    for patience_s, timeout_s in ((10, 600), (600, 10)):
        server = ScriptedServer(refusal(404))
        with server.client(patience_s) as blogs, pytest.raises(ProblemError, match="404"):
            blogs.wait(JOB, timeout_s=timeout_s)
        assert server.now == 1_010


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
def test_invalid_arguments_send_no_request(misuse: Callable[[Client], object]) -> None:
    server = ScriptedServer(httpx.Response(200, json=PENDING))
    with server.client() as blogs, pytest.raises(ValueError, match=r"."):
        misuse(blogs)
    assert server.requests == []


@pytest.mark.parametrize(
    ("python_name", "api_name"),
    [
        ("source_type", "sourceType"),
        ("source_id", "sourceId"),
        ("run_at", "runAt"),
        ("webhook_url", "webhookUrl"),
    ],
)
def test_field_given_by_both_names_is_refused(python_name: str, api_name: str) -> None:
    """The two values are ambiguous, unless one of them is `None`."""
    server = ScriptedServer(httpx.Response(201, json={"items": [PENDING]}))
    whole = {
        "source_type": "topic",
        "source_id": "a",
        "run_at": "2027-01-02T03:00:00Z",
        "webhook_url": "https://a.example",
    }
    with server.client() as blogs:
        for both in (whole | {api_name: "b"}, {api_name: "b"} | whole):
            with pytest.raises(ValueError, match=f"{python_name} and {api_name} are one field"):
                blogs.submit_many([both])
        assert server.requests == []
        blogs.submit_many([whole | {api_name: "b", python_name: None}])
    assert json.loads(server.requests[0].content)[0][api_name] == "b"


@pytest.mark.parametrize("key", ["", "schlüssel", "two\nlines", "sk_live_x ", "sk live"])
def test_invalid_api_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="API key"):
        Client("http://x", key)


def test_fields_are_converted_to_the_http_api() -> None:
    server = ScriptedServer(httpx.Response(201, json=PENDING))
    at = datetime(2027, 1, 2, 3, tzinfo=UTC)
    with server.client() as blogs:
        blogs.submit(
            "topic",
            "a",
            run_at=at,
            webhook_url="https://a.example",
            title=None,
            product={"run_at": at},
        )
        blogs.submit("topic", "a", runAt="2027-01-02T03:00:00Z")  # type: ignore[call-arg] # the API's name
    first, second = (json.loads(request.content) for request in server.requests)
    assert first == {
        "sourceType": "topic",
        "sourceId": "a",
        "runAt": "2027-01-02T03:00:00+00:00",
        "webhookUrl": "https://a.example",
        "product": {"run_at": "2027-01-02T03:00:00+00:00"},
    }
    assert second["runAt"] == "2027-01-02T03:00:00Z"


def test_event_with_an_ended_job_is_the_last() -> None:
    assert Event(name="job", data=DONE).ended
    assert not Event(name="progress", data=DONE).ended


def test_readme_example_runs() -> None:
    """The server is scripted; tests/integration/clients uses the real one."""
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

    printed = list[Any]()
    code = example.replace("from blogstream_client import Client\n", "").replace(
        "sk_live_…", "sk_live_x"
    )
    exec(
        code,
        {"Client": Offline, "datetime": datetime, "timedelta": timedelta, "print": printed.append},
    )
    assert printed[-1] == "T"
