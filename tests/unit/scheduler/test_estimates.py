"""Wait estimates, compared with the order in which the fair queue then serves."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.scheduler.dispatch.rules import WorkerCreditTracker, WorkerOffer
from services.scheduler.estimates.rules import QueueState, WaitEstimate, estimate_start_times
from services.scheduler.fair_queue.queue import FairQueue, WaitingJob
from shared.domain.reasons import WaitReason


def queue_state(store: str, **changes: Any) -> QueueState:
    values: dict[str, Any] = {
        "store": store,
        "account": store,
        "virtual_time": 0.0,
        "weight": 1.0,
        "account_virtual_time": 0.0,
        "account_weight": 1.0,
        "queued": 10,
        "estimate": 10,
        "at_cap": False,
        "in_flight": 0,
    }
    return QueueState(**(values | changes))


def estimates_by_store(
    *states: QueueState, limited_by: str | None = None, money_per_s: float = 10
) -> dict[str, WaitEstimate]:
    found = estimate_start_times(states, money_per_s=money_per_s, limited_by=limited_by)
    assert len(found) == len(states)
    return {estimate.store: estimate for estimate in found}


def test_single_store_waits_for_the_limiting_cause() -> None:
    (only,) = estimates_by_store(queue_state("a"), limited_by="TPM").values()
    assert (only.reason, only.limited_by, only.ahead) == ("TPM", "TPM", 0)
    assert (only.first_in_s, only.last_in_s) == (0, 9)


def test_store_ahead_waits_until_the_others_catch_up() -> None:
    found = estimates_by_store(
        queue_state("behind"), queue_state("ahead", account_virtual_time=50.0), limited_by="RPM"
    )
    assert (found["behind"].reason, found["ahead"].reason) == ("RPM", "fair turn")
    assert (found["ahead"].ahead, found["ahead"].first_in_s) == (5, 5)


def test_short_queue_ahead_limits_the_wait() -> None:
    found = estimates_by_store(
        queue_state("short", queued=2), queue_state("ahead", account_virtual_time=500.0)
    )
    assert found["ahead"].first_in_s == 2


def test_store_at_its_cap_waits_for_its_own_jobs() -> None:
    found = estimates_by_store(queue_state("capped", at_cap=True), queue_state("other"))
    assert (found["capped"].reason, found["capped"].first_in_s) == ("store cap", None)
    alone = estimates_by_store(queue_state("capped", at_cap=True))["capped"]
    assert (alone.reason, alone.first_in_s) == ("fair turn", 0)


def test_store_at_its_cap_starts_jobs_as_its_own_end() -> None:
    at_cap = queue_state("capped", at_cap=True, in_flight=4, queued=6)
    found = estimate_start_times(
        [at_cap, queue_state("other")], money_per_s=10, limited_by=None, run_s=20.0
    )
    capped = next(estimate for estimate in found if estimate.store == "capped")
    assert (capped.reason, capped.first_in_s, capped.last_in_s) == ("store cap", 5, 30)


def test_hard_cap_holds_without_competition() -> None:
    (only,) = estimate_start_times(
        [queue_state("a", at_cap=True)], money_per_s=10, limited_by=None, hard_cap=True
    )
    assert (only.reason, only.first_in_s) == ("store cap", None)


def test_store_ahead_of_its_siblings_waits_for_account_share() -> None:
    found = estimates_by_store(
        queue_state("a", account="both"),
        queue_state("b", account="both", virtual_time=40.0),
        queue_state("c"),
        limited_by="TPM",
    )
    assert found["b"].reason == "account share"
    assert found["b"].first_in_s == 8, "40 for its sibling and as much for the other account"


def test_start_times_are_unknown_without_dispatch() -> None:
    (only,) = estimates_by_store(
        queue_state("a"), money_per_s=0, limited_by=WaitReason.NO_WORKER
    ).values()
    assert (only.reason, only.first_in_s, only.last_in_s) == (WaitReason.NO_WORKER, None, None)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 20),
            st.integers(1, 40),
            st.integers(1, 3),
            st.integers(0, 300),
            st.integers(0, 2),
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=300, deadline=None)
def test_estimates_match_the_fair_queue(
    stores: list[tuple[int, int, int, int, int]],
) -> None:
    """Stores are (jobs, cost, weight, served, account). Errors: below two jobs of each store."""
    fair = FairQueue(cap=1_000, default_cost=1)
    for number, (_, cost, weight, served, account) in enumerate(stores):
        fair.restore_store(
            f"s{number}",
            weight=weight,
            served=served,
            mean_cost=cost,
            settled_jobs=1,
            account=f"a{account}",
        )
    for number, (jobs, *_) in enumerate(stores):
        for job in range(jobs):
            fair.restore_pending(
                WaitingJob.create(job=(number, job), store=f"s{number}", created_at=float(job)), 0
            )
    fair.finish_restore()
    estimates = {
        estimate.store: estimate
        for estimate in estimate_start_times(fair.queue_states(0), money_per_s=1, limited_by=None)
    }
    spent, firsts, lasts = 0, dict[str, int](), dict[str, int]()
    while (pick := fair.pick_next(0)) is not None:
        firsts.setdefault(pick.store, spent)
        lasts[pick.store] = spent
        spent += pick.reserved
        fair.settle_job(pick.job, pick.store, pick.reserved, ended=True)
    slack = 2 * sum(cost for _, cost, *_ in stores)
    for store, estimate in estimates.items():
        assert estimate.first_in_s is not None
        assert estimate.last_in_s is not None
        assert abs(estimate.first_in_s - firsts[store]) <= slack
        assert abs(estimate.last_in_s - lasts[store]) <= slack


def test_limiting_cause_of_the_workers() -> None:
    credit = WorkerCreditTracker(silence_s=5)
    assert credit.limiting_cause(0) == WaitReason.NO_WORKER
    credit.apply_offer(WorkerOffer(worker="w", partitions=(0,), slots=1, at=0))
    assert credit.limiting_cause(0) is None
    credit.record_dispatch(1, 0)
    assert credit.limiting_cause(0) == WaitReason.NO_FREE_SLOT
    credit.apply_offer(WorkerOffer(worker="w", partitions=(0,), slots=1, at=1, limited_by="TPM"))
    assert credit.limiting_cause(1) == "TPM"
    assert credit.limiting_cause(9) == WaitReason.NO_WORKER


def test_permits_decide_the_times_while_they_limit_the_dispatch() -> None:
    """The recent spend of 10 a second is that of a burst: the permits start half a job a second."""
    (only,) = estimate_start_times(
        [queue_state("a")], money_per_s=10, jobs_per_s=0.5, limited_by="RPM"
    )
    assert (only.first_in_s, only.last_in_s) == (0, 18)
