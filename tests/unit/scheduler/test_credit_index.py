"""The index of workers by credit chooses as a look at all workers does, after any history."""

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.dispatch.rules import WorkerCreditTracker, WorkerOffer

WORKERS = ("w0", "w1", "w2", "w3")
SILENCE_S = 5.0


@dataclass
class NaiveTracker:
    """The same rule, computed from all offers and all outstanding jobs each time."""

    offers: dict[str, WorkerOffer] = field(default_factory=dict)
    jobs: dict[int, tuple[int, str | None, bool]] = field(default_factory=dict)
    """Partition, claiming worker, and whether an image is needed."""

    def credit(self, offer: WorkerOffer, now: float, *, needs_images: bool) -> int:
        if now - offer.at > SILENCE_S or not offer.usable_partitions(needs_images=needs_images):
            return 0
        own = [
            images
            for partition, worker, images in self.jobs.values()
            if worker == offer.worker or (worker is None and partition in offer.partitions)
        ]
        credit = offer.slots - len(own)
        if needs_images and offer.most_image_jobs is not None:
            return min(credit, offer.most_image_jobs - sum(own))
        return credit

    def best_partition(self, now: float, *, needs_images: bool) -> int | None:
        best = max(
            self.offers.values(),
            key=lambda offer: self.credit(offer, now, needs_images=needs_images),
            default=None,
        )
        if best is None or self.credit(best, now, needs_images=needs_images) <= 0:
            return None
        used = [partition for partition, _, _ in self.jobs.values()]
        return min(best.usable_partitions(needs_images=needs_images), key=used.count)


partitions = st.lists(st.integers(0, 7), unique=True, max_size=4).map(tuple)
offers = st.builds(
    WorkerOffer,
    worker=st.sampled_from(WORKERS),
    partitions=partitions,
    slots=st.integers(0, 5),
    at=st.just(0.0),
    image_partitions=st.none() | partitions,
    most_image_jobs=st.none() | st.integers(0, 3),
)
steps = st.one_of(
    st.tuples(st.just("offer"), offers),
    st.tuples(st.just("dispatch"), st.booleans()),
    st.tuples(st.just("claim"), st.tuples(st.integers(0, 20), st.sampled_from(WORKERS))),
    st.tuples(st.just("settle"), st.integers(0, 20)),
    st.tuples(st.just("wait"), st.floats(0, 4)),
    st.tuples(st.just("forget"), st.none()),
)


class BothTrackers:
    """Does every step to the tracker and to the naive one."""

    def __init__(self) -> None:
        self.tracker, self.naive = WorkerCreditTracker(silence_s=SILENCE_S), NaiveTracker()
        self.now, self.jobs = 0.0, 0

    def offer(self, given_offer: WorkerOffer) -> None:
        offer = _at(given_offer, self.now)
        self.tracker.apply_offer(offer)
        self.naive.offers[offer.worker] = offer

    def dispatch(self, needs_images: bool) -> None:
        partition = self.tracker.best_partition(self.now, needs_images=needs_images)
        if partition is not None:
            self.jobs += 1
            self.tracker.record_dispatch(self.jobs, partition, needs_images=needs_images)
            self.naive.jobs[self.jobs] = (partition, None, needs_images)

    def claim(self, claim: tuple[int, str]) -> None:
        job, worker = claim
        self.tracker.record_claim(job, worker)
        if (known := self.naive.jobs.get(job)) is not None:
            self.naive.jobs[job] = (known[0], worker, known[2])

    def settle(self, job: int) -> None:
        self.tracker.record_settlement(job)
        self.naive.jobs.pop(job, None)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def forget(self, _: None) -> None:
        self.tracker.forget_jobs()
        self.naive.jobs.clear()

    def check(self) -> None:
        for images in (False, True):
            found = self.tracker.best_partition(self.now, needs_images=images)
            assert found == self.naive.best_partition(self.now, needs_images=images)


@given(st.lists(steps, max_size=60))
def test_index_agrees_with_a_look_at_all_workers(script: list[tuple[str, object]]) -> None:
    both = BothTrackers()
    for step, argument in script:
        getattr(both, step)(argument)
        both.check()


def _at(offer: WorkerOffer, now: float) -> WorkerOffer:
    return replace(offer, at=now)


def test_old_entries_are_dropped() -> None:
    tracker = WorkerCreditTracker(silence_s=SILENCE_S)
    for number in range(10_000):
        tracker.apply_offer(WorkerOffer(worker="w", partitions=(0,), slots=1 + number % 7, at=0))
    assert tracker.best_partition(0) == 0
    assert len(tracker._indexes[0]._heap) <= 17
