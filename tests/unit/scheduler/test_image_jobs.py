"""Jobs that need an image in the fair queue, while no worker takes them and afterwards."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from services.scheduler.estimates.rules import estimate_start_times
from services.scheduler.fair_queue.queue import FairQueue, PickedJob, WaitingJob
from shared.domain.reasons import WaitReason

COST = 10


def create_queue(cap: int = 1_000) -> FairQueue:
    return FairQueue(cap=cap, default_cost=COST)


def job(number: int, store: str, *, images: bool, priority: int = 0) -> WaitingJob:
    return WaitingJob.create(
        job=number,
        store=store,
        created_at=float(number),
        priority=priority,
        needs_images=images,
    )


def serve(fair: FairQueue, *, images: bool = True) -> PickedJob | None:
    """Pick the next job and end it at once at its reserved cost."""
    pick = fair.pick_next(0, images=images)
    if pick is not None:
        fair.settle_job(pick.job, pick.store, pick.reserved, ended=True)
    return pick


def serve_all(fair: FairQueue, *, images: bool = True) -> list[PickedJob]:
    picks = []
    while (pick := serve(fair, images=images)) is not None:
        picks.append(pick)
    return picks


jobs = st.lists(
    st.tuples(st.sampled_from("abcd"), st.booleans(), st.integers(0, 2)), min_size=1, max_size=40
)


@given(jobs, st.sets(st.integers(0, 39)))
@settings(max_examples=300)
def test_jobs_without_image_go_in_the_order_of_a_queue_without_the_others(
    specs: list[tuple[str, bool, int]], cancelled: set[int]
) -> None:
    """Held jobs neither change the order of the others nor get lost."""
    mixed, texts = create_queue(), create_queue()
    mixed.hold_image_jobs(True)
    for number, (store, images, priority) in enumerate(specs):
        mixed.enqueue(job(number, store, images=images, priority=priority), 0)
        if not images:
            texts.enqueue(job(number, store, images=False, priority=priority), 0)
    for number in cancelled:
        mixed.remove_pending(number)
        texts.remove_pending(number)
    picked = [pick.job for pick in serve_all(mixed, images=False)]
    assert picked == [pick.job for pick in serve_all(texts)]
    waiting = {number for number, (_, images, _) in enumerate(specs) if images} - cancelled
    assert mixed.pending == len(waiting)
    mixed.hold_image_jobs(False)
    assert {pick.job for pick in serve_all(mixed)} == waiting


@given(jobs)
def test_jobs_of_a_store_keep_their_order_through_a_hold(
    specs: list[tuple[str, bool, int]],
) -> None:
    fair = create_queue()
    for number, (_, images, priority) in enumerate(specs):
        fair.enqueue(job(number, "a", images=images, priority=priority), 0)
    fair.hold_image_jobs(True)
    held = serve_all(fair, images=False)
    fair.hold_image_jobs(False)
    ordered = sorted(range(len(specs)), key=lambda number: (-specs[number][2], number))
    assert [pick.job for pick in held] == [n for n in ordered if not specs[n][1]]
    assert [pick.job for pick in serve_all(fair)] == [n for n in ordered if specs[n][1]]


@given(
    served=st.integers(1, 60),
    image_stores=st.integers(1, 4),
    text_stores=st.integers(1, 4),
    weight=st.sampled_from([1.0, 2.0]),
)
@settings(max_examples=100)
def test_outage_of_images_gives_no_advantage(
    served: int, image_stores: int, text_stores: int, weight: float
) -> None:
    """After the outage every store gets its share by weight, whatever was served meanwhile."""
    fair, number = create_queue(), 0
    stores = [f"image {n}" for n in range(image_stores)] + [f"text {n}" for n in range(text_stores)]
    for store in stores:
        fair.restore_store(store, weight=weight, served=0, mean_cost=COST, settled_jobs=9)
        for _ in range(200):
            number += 1
            fair.enqueue(job(number, store, images=store.startswith("image")), 0)
    fair.hold_image_jobs(True)
    for _ in range(served):
        pick = serve(fair, images=False)
        assert pick is not None
        assert not pick.needs_images
    fair.hold_image_jobs(False)
    counts = Counter(pick.store for _ in range(10 * len(stores)) if (pick := serve(fair)))
    assert all(abs(counts[store] - 10) <= 1 for store in stores), counts


def test_store_that_joins_during_the_outage_starts_where_the_served_ones_are() -> None:
    fair = create_queue()
    fair.enqueue(job(1, "image", images=True), 0)
    for number in range(2, 40):
        fair.enqueue(job(number, "busy", images=False), 0)
    fair.hold_image_jobs(True)
    for _ in range(20):
        serve(fair, images=False)
    for number in range(40, 60):
        fair.enqueue(job(number, "late", images=False), 0)
        fair.enqueue(job(number + 100, "image", images=False), 0)
    counts = Counter(pick.store for _ in range(9) if (pick := serve(fair, images=False)))
    assert counts == {"busy": 3, "late": 3, "image": 3}


def test_outage_in_which_nothing_is_served_changes_nothing() -> None:
    fair = create_queue()
    fair.restore_store("behind", weight=1, served=0, mean_cost=COST, settled_jobs=9)
    fair.restore_store("ahead", weight=1, served=100, mean_cost=COST, settled_jobs=9)
    for number in range(20):
        fair.restore_pending(job(number, "behind", images=True), 0)
        fair.restore_pending(job(number + 20, "ahead", images=False), 0)
    fair.finish_restore()
    fair.hold_image_jobs(True)
    fair.hold_image_jobs(False)
    assert [pick.store for _ in range(9) if (pick := serve(fair))] == ["behind"] * 9


def test_taken_image_slots_leave_the_turn_to_the_store() -> None:
    """Without an outage a store that waits for an image slot goes first when one is free."""
    fair = create_queue()
    for number in range(10):
        fair.enqueue(job(number, "image", images=True), 0)
        fair.enqueue(job(number + 10, "text", images=False), 0)
    assert [pick.store for _ in range(4) if (pick := serve(fair, images=False))] == ["text"] * 4
    assert [pick.store for _ in range(4) if (pick := serve(fair))] == ["image"] * 4


def test_held_store_waits_for_the_provider() -> None:
    fair = create_queue()
    fair.enqueue(job(1, "image", images=True), 0)
    fair.enqueue(job(2, "both", images=True), 0)
    fair.enqueue(job(3, "both", images=False), 0)
    fair.hold_image_jobs(True)
    estimates = estimate_start_times(fair.queue_states(0), money_per_s=COST, limited_by=None)
    found = {estimate.store: (estimate.reason, estimate.first_in_s) for estimate in estimates}
    assert found == {
        "image": (WaitReason.UNAVAILABLE, None),
        "both": (WaitReason.FAIR_TURN, 0.0),
    }


def test_reason_of_a_store_with_only_image_jobs_is_the_limit_of_images() -> None:
    fair = create_queue()
    fair.enqueue(job(1, "image", images=True), 0)
    fair.enqueue(job(2, "text", images=False), 0)
    for held, cause in ((False, WaitReason.IMAGES), (True, WaitReason.COOLING_DOWN)):
        fair.hold_image_jobs(held)
        estimates = estimate_start_times(
            fair.queue_states(0), money_per_s=COST, limited_by=None, images_limited_by=cause
        )
        found = {estimate.store: estimate.reason for estimate in estimates}
        assert found == {"image": cause, "text": WaitReason.FAIR_TURN}


def test_budget_holds_a_store_with_both_kinds_of_jobs() -> None:
    fair = create_queue()
    fair.enqueue(job(1, "a", images=True), 0)
    fair.enqueue(job(2, "a", images=False), 0)
    fair.set_budgets({"a": COST})
    assert serve(fair, images=False) is not None
    assert serve(fair) is None
    fair.set_budgets({"a": 2 * COST})
    pick = serve(fair)
    assert pick is not None
    assert pick.job == 1
