"""The outlook against the order itself: what it foretells is what then happens."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.scheduler.dispatch.rules import BACKPRESSURE, NO_WORKER, WorkerCredit, WorkerOffer
from services.scheduler.estimates.rules import WaitEstimate, QueueState, estimate_start_times
from services.scheduler.fair_queue.queue import FairQueue, WaitingJob


def standing(store: str, **changes: Any) -> QueueState:
    values: dict[str, Any] = {
        "store": store,
        "account": store,
        "position": 0.0,
        "weight": 1.0,
        "account_position": 0.0,
        "account_weight": 1.0,
        "queued": 10,
        "estimate": 10,
        "at_cap": False,
        "in_flight": 0,
    }
    return QueueState(**(values | changes))


def foreseen(
    *standings: QueueState, limited_by: str | None = None, money_per_s: float = 10
) -> dict[str, WaitEstimate]:
    found = estimate_start_times(standings, money_per_s=money_per_s, limited_by=limited_by)
    assert len(found) == len(standings)
    return {outlook.store: outlook for outlook in found}


def test_one_store_alone_waits_for_what_limits_the_workers() -> None:
    (only,) = foreseen(standing("a"), limited_by="TPM").values()
    assert (only.reason, only.limited_by, only.ahead) == ("TPM", "TPM", 0)
    assert (only.first_in_s, only.last_in_s) == (0, 9)


def test_who_stands_higher_waits_until_the_others_have_caught_up() -> None:
    found = foreseen(standing("low"), standing("high", account_position=50.0), limited_by="RPM")
    assert (found["low"].reason, found["high"].reason) == ("RPM", "fair turn")
    assert (found["high"].ahead, found["high"].first_in_s) == (5, 5)


def test_a_short_queue_ahead_is_no_longer_than_it_is() -> None:
    found = foreseen(standing("short", queued=2), standing("high", account_position=500.0))
    assert found["high"].first_in_s == 2


def test_a_store_at_its_cap_waits_for_its_own_jobs() -> None:
    found = foreseen(standing("capped", at_cap=True), standing("other"))
    assert (found["capped"].reason, found["capped"].first_in_s) == ("store cap", None)
    alone = foreseen(standing("capped", at_cap=True))["capped"]
    assert (alone.reason, alone.first_in_s) == ("fair turn", 0)


def test_a_store_at_its_cap_goes_on_as_its_own_jobs_end() -> None:
    stopped = standing("capped", at_cap=True, in_flight=4, queued=6)
    found = estimate_start_times([stopped, standing("other")], money_per_s=10, limited_by=None, run_s=20.0)
    capped = next(outlook for outlook in found if outlook.store == "capped")
    assert (capped.reason, capped.first_in_s, capped.last_in_s) == ("store cap", 5, 30)


def test_under_a_hard_cap_nobody_races_beyond_it() -> None:
    (only,) = estimate_start_times([standing("a", at_cap=True)], money_per_s=10, limited_by=None, hard_cap=True)
    assert (only.reason, only.first_in_s) == ("store cap", None)


def test_a_store_behind_its_siblings_is_told_so() -> None:
    found = foreseen(
        standing("a", account="both"),
        standing("b", account="both", position=40.0),
        standing("c"),
        limited_by="TPM",
    )
    assert found["b"].reason == "account share"
    assert found["b"].first_in_s == 8, (
        "40 for its sibling, and as much for the other account meanwhile"
    )


def test_nobody_can_tell_while_nothing_moves() -> None:
    (only,) = foreseen(standing("a"), money_per_s=0, limited_by=NO_WORKER).values()
    assert (only.reason, only.first_in_s, only.last_in_s) == (NO_WORKER, None, None)


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
def test_what_is_foretold_is_what_the_order_does(
    stores: list[tuple[int, int, int, int, int]],
) -> None:
    """(jobs, cost, weight, served before, account). The error is no more than a largest job of everybody."""
    order = FairQueue(cap=1_000, default_cost=1)
    for number, (_, cost, weight, served, account) in enumerate(stores):
        order.restore_store(
            f"s{number}",
            weight=weight,
            served=served,
            mean_cost=cost,
            settled_jobs=1,
            account=f"a{account}",
        )
    for number, (jobs, *_) in enumerate(stores):
        for job in range(jobs):
            order.restore_pending(
                WaitingJob.create(job=(number, job), store=f"s{number}", created_at=float(job)), 0
            )
    order.finish_restore()
    foretold = {
        one.store: one for one in estimate_start_times(order.queue_states(0), money_per_s=1, limited_by=None)
    }
    spent, firsts, lasts = 0, dict[str, int](), dict[str, int]()
    while (pick := order.pick_next(0)) is not None:
        firsts.setdefault(pick.store, spent)
        lasts[pick.store] = spent
        spent += pick.reserved
        order.settle_job(pick.job, pick.store, pick.reserved, ended=True)
    slack = 2 * sum(cost for _, cost, *_ in stores)
    for store, outlook in foretold.items():
        assert outlook.first_in_s is not None
        assert outlook.last_in_s is not None
        assert abs(outlook.first_in_s - firsts[store]) <= slack
        assert abs(outlook.last_in_s - lasts[store]) <= slack


def test_what_limits_the_workers() -> None:
    credit = WorkerCredit(silence_s=5)
    assert credit.limiting_cause(0) == NO_WORKER
    credit.apply_offer(WorkerOffer(worker="w", partitions=(0,), slots=1, at=0))
    assert credit.limiting_cause(0) is None
    credit.record_dispatch(1, 0)
    assert credit.limiting_cause(0) == BACKPRESSURE
    credit.apply_offer(WorkerOffer(worker="w", partitions=(0,), slots=1, at=1, limited_by="TPM"))
    assert credit.limiting_cause(1) == "TPM"
    assert credit.limiting_cause(9) == NO_WORKER
