"""What follows for a job from a prediction that ended without an image."""

import pytest

from services.generator.blog.steps import _prediction_error
from services.generator.providers.outcomes.outcome import Outcome, OutcomeKind
from services.generator.providers.replicate.reads import UnusablePrediction
from shared.domain.errors import Permanent, Transient
from shared.domain.messages import Usage

PAID, FREE = Usage(images=1, cost_nanousd=3), Usage()


def end_with(
    kind: OutcomeKind, usage: Usage = FREE, *, in_doubt: bool = False
) -> UnusablePrediction:
    outcome = Outcome(kind=kind, code="replicate-x", reason="the words", in_doubt=in_doubt)
    return UnusablePrediction(outcome, usage)


@pytest.mark.parametrize(
    ("ended", "counts"),
    [
        (end_with(OutcomeKind.ANSWER_FAULT), True),
        (end_with(OutcomeKind.ANSWER_FAULT, PAID), True),
        (end_with(OutcomeKind.OUTAGE, PAID), True),
        (end_with(OutcomeKind.OUTAGE, in_doubt=True), True),
        (end_with(OutcomeKind.OUTAGE), False),
        (end_with(OutcomeKind.UNEXPLAINED), False),
        (end_with(OutcomeKind.REQUEST_FAULT), False),
    ],
)
def test_paid_and_unusable_predictions_count(ended: UnusablePrediction, counts: bool) -> None:
    assert ended.counts == counts


@pytest.mark.parametrize("unusable", [3, 4])
def test_third_unusable_prediction_fails_the_job(unusable: int) -> None:
    error = _prediction_error(end_with(OutcomeKind.ANSWER_FAULT, PAID), unusable)
    assert isinstance(error, Permanent)
    assert error.code == "replicate-x"
    assert f"{unusable} predictions" in str(error)


@pytest.mark.parametrize("unusable", [1, 2])
def test_earlier_unusable_prediction_costs_no_attempt(unusable: int) -> None:
    error = _prediction_error(end_with(OutcomeKind.ANSWER_FAULT, PAID), unusable)
    assert isinstance(error, Transient)
    assert error.blameless


def test_free_predictions_never_fail_a_job() -> None:
    for unusable in range(1, 10):
        error = _prediction_error(end_with(OutcomeKind.OUTAGE), unusable)
        assert isinstance(error, Transient)
        assert error.blameless


def test_request_s_fault_fails_the_job_at_once() -> None:
    assert isinstance(_prediction_error(end_with(OutcomeKind.REQUEST_FAULT), 1), Permanent)
