"""Plans of scripted provider faults, and the outcome that each plan allows for its job.

A plan is drawn by a seeded generator, so that a failing one can be played again.
"""

import random
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

Fault = dict[str, Any]


def _response(status: int, error: dict[str, Any], **more: Any) -> Fault:
    return {"kind": "response", "status": status, "body": {"error": error}, **more}


TEXT_FAULTS: dict[str, Fault] = {
    "500": {"kind": "500"},
    "502 page": {"kind": "response", "status": 502, "body": "<html>Bad Gateway</html>"},
    "503 with delay": {"kind": "503", "retry_after": 1},
    "429": {"kind": "429"},
    "429 without code": _response(429, {"message": "Too many requests", "code": None}),
    "429 with a text as code": _response(429, {"message": "slow down", "code": "429"}),
    "cut": {"kind": "cut"},
    "malformed": {"kind": "malformed"},
    "failed in a 200": {
        "kind": "status",
        "status": "failed",
        "error": {"code": "server_error", "message": "The server had an error."},
    },
    "throttled in a 200": {
        "kind": "status",
        "status": "failed",
        "error": {"code": "rate_limit_exceeded", "message": "Try again in 1s."},
    },
    "error in a 200": _response(200, {"message": "Provider returned error", "code": 502}),
    "queued in a 200": {"kind": "status", "status": "queued"},
    "null output": {"kind": "response", "status": 200, "body": {"output": None}},
    "page of a proxy": {"kind": "response", "status": 200, "body": "<!doctype html><title>Login"},
    "unknown model, once": _response(404, {"code": "model_not_found", "message": "no such model"}),
    "daily limit": _response(
        429, {"code": "rate_limit_exceeded", "message": "Limit 200 requests per day (RPD)."}
    ),
    "truncated": {"kind": "truncated"},
    "broken schema": {"kind": "schema"},
    "no money, once": {"kind": "insufficient_quota"},
    "unexplained": _response(418, {"message": "no"}),
}
"""Faults of one call, none of which is the request's fault."""

IMAGE_FAULTS: dict[str, Fault] = {
    "500": {"kind": "500"},
    "502 at polls": {"kind": "502", "on": "poll", "count": 2},
    "429 in the body": {"kind": "429", "retry_after": 1},
    "402, once": {"kind": "402"},
    "interrupted": {
        "kind": "prediction",
        "status": "failed",
        "error": "Prediction interrupted; please retry (code: PA)",
    },
    "out of memory": {"kind": "prediction", "status": "failed", "error": "CUDA out of memory"},
    "aborted": {"kind": "aborted"},
    "new status": {"kind": "prediction", "status": "booting", "polls": 2},
    "failed, unknown": {"kind": "prediction", "status": "failed", "error": "exit status 3"},
    "object": {"kind": "prediction", "status": "succeeded", "output": {"image": "{url}"}},
    "html file": {"kind": "prediction", "status": "succeeded", "file": "html"},
    "empty output": {"kind": "prediction", "status": "succeeded", "output": []},
}

REQUEST_FAULTS: dict[str, Fault] = {
    "flagged": _response(
        403, {"code": 403, "message": "Your input was flagged", "metadata": {"reasons": ["x"]}}
    ),
    "too long": _response(
        400, {"code": "context_length_exceeded", "message": "maximum context length"}
    ),
    "refused twice": {"kind": "refusal", "count": 2},
}
"""Faults that fail the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan:
    """A job with the faults that its calls meet."""

    store: str
    images: int
    text_faults: tuple[tuple[str, str], ...] = ()
    """Names of `TEXT_FAULTS` with their steps."""
    image_faults: tuple[str, ...] = ()
    request_fault: str | None = None

    @property
    def status(self) -> str:
        """The only status in which the job may end."""
        return "FAILED" if self.request_fault else "DONE"

    def text_script(self, job: UUID) -> list[Fault]:
        faults = [TEXT_FAULTS[name] | {"step": step} for name, step in self.text_faults]
        if self.request_fault:
            faults.append(REQUEST_FAULTS[self.request_fault] | {"step": "article"})
        return [fault | {"job": str(job)} for fault in faults]

    def image_script(self, job: UUID) -> list[Fault]:
        return [IMAGE_FAULTS[name] | {"job": str(job)} for name in self.image_faults]


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """The jobs of stores in trouble, and as many of a store whose calls meet no fault."""

    troubled: list[JobPlan] = field(default_factory=list)
    quiet: list[JobPlan] = field(default_factory=list)


def draw_plan(seed: int, *, jobs: int) -> FaultPlan:
    """Draw a plan.

    One job alone meets faults of the whole account, such as 429: two jobs would slow all, rightly.
    """
    rng = random.Random(seed)
    troubled = [_draw_job(rng, f"store-{number % 3}") for number in range(jobs - 1)]
    troubled.append(
        JobPlan(
            store="store-0",
            images=1,
            text_faults=((rng.choice(sorted(_ACCOUNT_TEXT_FAULTS)), "outline"),),
            image_faults=(rng.choice(sorted(_ACCOUNT_IMAGE_FAULTS)),),
        )
    )
    quiet = [JobPlan(store="quiet", images=number % 2) for number in range(jobs)]
    return FaultPlan(troubled, quiet)


_ACCOUNT_TEXT_FAULTS = {
    "429",
    "429 without code",
    "429 with a text as code",
    "throttled in a 200",
    "no money, once",
    "unexplained",
    "page of a proxy",
    "unknown model, once",
    "daily limit",
}
_ACCOUNT_IMAGE_FAULTS = {"402, once", "429 in the body"}


def _draw_job(rng: random.Random, store: str) -> JobPlan:
    texts = sorted(TEXT_FAULTS.keys() - _ACCOUNT_TEXT_FAULTS)
    images = sorted(IMAGE_FAULTS.keys() - _ACCOUNT_IMAGE_FAULTS)
    return JobPlan(
        store=store,
        images=rng.randint(0, 1),
        text_faults=tuple(
            (name, rng.choice(("outline", "article")))
            for name in rng.sample(texts, rng.randint(0, 2))
        ),
        image_faults=tuple(rng.sample(images, rng.randint(0, 2))),
        request_fault=rng.choice((None, None, None, *sorted(REQUEST_FAULTS))),
    )
