"""One term of leadership: admit, settle and forward, with the order in memory and its truth in PostgreSQL.

Whatever fails in a term ends it. The next one rebuilds the order from PostgreSQL, so nothing has to be undone. A
counter's lift that was not saved within the second before a crash is made up for when the next term resumes.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from services.scheduler import messages
from services.scheduler.admission.controller import AdmissionController
from services.scheduler.budgets.tracker import BudgetTracker
from services.scheduler.dispatch import spans
from services.scheduler.dispatch.dispatcher import Dispatcher
from services.scheduler.dispatch.rules import WorkerCredit
from services.scheduler.estimates.publisher import WaitEstimatePublisher
from services.scheduler.fair_queue.accounts import CounterChange
from services.scheduler.fair_queue.fairness import FairnessMonitor
from services.scheduler.fair_queue.queue import FairQueue, PickedJob
from services.scheduler.leadership import restore
from services.scheduler.leadership.ordered_publisher import OrderedPublisher
from services.scheduler.repository import UNSTORABLE_ERRORS, Row, SchedulerRepository
from services.scheduler.settings import SchedulerSettings
from services.scheduler.settlement.user_actions import UserActionLog
from shared.domain.errors import Permanent
from shared.domain.job import ENDED, Status
from shared.domain.messages import BlogRequested, EventKind, JobEvent, WorkerReport
from shared.kafka.publisher import Outgoing, Publisher
from shared.observability.log import get_logger

log = get_logger(__name__)

_SETTLING = {EventKind.ENDED, EventKind.RETRY}

Refused = list[tuple[BlogRequested, Permanent]]


class LeaderSession:
    """Times given as `now` are seconds since the epoch."""

    def __init__(
        self,
        *,
        name: str,
        settings: SchedulerSettings,
        store: SchedulerRepository,
        publisher: Publisher,
        credit: WorkerCredit,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """What was done since the counts were last taken, for the log."""
        self._epoch = 0
        self._began_at = 0.0
        self._configured_until = restore.BEGINNING
        self._watch = FairnessMonitor(seconds=settings.fairness_window_s, now=time.time())
        self._drifted = 0
        self._name = name
        self._settings = settings
        self._store = store
        self._publisher = publisher
        self._pipe = OrderedPublisher(publisher)
        self._credit = credit
        self._doors = AdmissionController(settings, publisher)
        self._outlooks = WaitEstimatePublisher(store, hard_cap=settings.hard_cap)
        self._interventions = UserActionLog(store)
        self._suspects: frozenset[UUID] = frozenset()
        self._order = FairQueue(
            cap=settings.max_per_instance,
            default_cost=settings.default_cost_nanousd,
            hard_cap=settings.hard_cap,
        )
        self._budgets = BudgetTracker(store, self._order)
        self._forwarder = Dispatcher(
            store=store,
            order=self._order,
            credit=credit,
            pipe=self._pipe,
            batch_size=settings.batch_size,
            left=self._left,
            counts=self.counts,
        )

    async def begin(self) -> None:
        """Raise the epoch, so that nobody else writes, then take up what is there. O(backlog)."""
        began = time.perf_counter()
        self._epoch = await self._store.take_lead(self._name)
        self._began_at = time.time()
        log.info("this scheduler leads", epoch=self._epoch)
        await self._interventions.begin()
        rebuilt = await restore.restore_fair_queue(self._order, self._credit, self._store)
        self._configured_until = rebuilt.configured_until
        await self._settle_jobs(await self._store.uncharged())
        await self._look_at_budgets()
        self._doors.grown(store for store, *_ in self._order.queues())
        await self._doors.recall()
        await self._outlooks.begin(self._epoch)
        log.info(
            "the order is rebuilt",
            rows=rebuilt.rows,
            waiting=self._order.pending,
            in_flight=self._order.in_flight,
            seconds=round(time.perf_counter() - began, 3),
        )

    def end(self) -> None:
        """Forward nothing more from now on."""
        self._forwarder.end()

    async def flush(self) -> None:
        """Return when all that was said is acknowledged: only then are the records behind it done with."""
        await self._forwarder.rest()
        await self._pipe.flush()

    async def abandon(self) -> None:
        """End without caring how: what follows from records that were read will be said by the next term."""
        await self._forwarder.abandon()
        await self._pipe.abandon()

    async def admit(self, requests: Sequence[BlogRequested]) -> Refused:
        """Make rows of the requests, in batches, and announce them: those that are new, and repeats of which nothing
        else can have been said, for their announcement may have got lost.

        Returns those that no database could take: they must not stop the others.
        """
        refused: Refused = []
        size = self._settings.batch_size
        for batch in (requests[start : start + size] for start in range(0, len(requests), size)):
            began = datetime.now(UTC)
            new = await self._insert(batch, refused)
            hopeless = {request.id for request, _ in refused}
            taken = [request for request in batch if request.id not in hopeless]
            spans.record_admission_spans(taken, began_ns=int(began.timestamp() * 1e9))
            await self._pipe.send(await self._announcements(taken, new, began))
            self._enter(taken, new)  # said before any of them can be forwarded
        return refused

    async def _announcements(
        self, taken: Sequence[BlogRequested], new: set[UUID], began: datetime
    ) -> Sequence[Outgoing]:
        repeated = [request.id for request in taken if request.id not in new]
        untouched = await self._store.untouched(repeated) if repeated else set[UUID]()
        return [
            messages.admitted_event(request, at=began if request.id in new else request.created_at)
            for request in taken
            if request.id in new or request.id in untouched
        ]

    def _enter(self, taken: Sequence[BlogRequested], new: set[UUID]) -> None:
        now = time.time()
        for request in taken:
            if request.id in new:
                self._order.add(messages.waiting_job_from_request(request), now)
        self._doors.grown({request.store for request in taken})
        self.counts["admitted"] += len(new)
        self.counts["repeated"] += len(taken) - len(new)

    async def settle(self, events: Sequence[JobEvent]) -> None:
        """Charge what ended or was given back; what is to be tried again returns to the queue. Note who began what."""
        self._note_claims(
            (event.job, event.worker) for event in events if event.kind is EventKind.STARTED
        )
        await self._settle_jobs(list({event.job for event in events if event.kind in _SETTLING}))

    def _note_claims(self, claims: Iterable[tuple[UUID, str | None]]) -> None:
        for job, worker in claims:
            if worker is not None:
                self._credit.claimed(job, worker)

    def hear(self, reports: Sequence[WorkerReport]) -> None:
        now = time.time()
        for report in reports:
            self._credit.hear(messages.worker_offer(report, now))

    def keep_forwarding(self) -> None:
        """Send the jobs whose turn it is, while the next requests are read and admitted. Raises what it met before."""
        self._forwarder.go_on(self._epoch)

    async def sweep(self) -> None:
        """Bring back what was lost on the way, and compare the book of jobs in flight with PostgreSQL."""
        await self._forwarder.rest()
        lost, let_go = await self._return_lost()
        unclaimed = await self._store.return_unclaimed(
            self._settings.forward_timeout_s, self._epoch
        )
        if unclaimed:
            log.warning("forwarded and not claimed: back to the queue", jobs=len(unclaimed))
        await self._publisher.publish_all([*map(messages.expired_lease_event, lost), *map(messages.current_state_event, let_go)])
        changed = await self._retell_interventions()
        await self._settle_jobs([row["id"] for row in [*lost, *let_go]] + unclaimed + changed)
        await self._compare()
        await self._reassign()
        await self._look_at_budgets()
        self._credit.forget_silent(time.time())
        self._doors.forget(time.time())

    async def _retell_interventions(self) -> list[UUID]:
        """ingest has said what people have changed, unless Kafka was away or the process died: it is said again."""
        changed = await self._interventions.news()
        if changed:
            await self._publisher.publish_all(
                list(map(messages.current_state_event, await self._store.told(changed)))
            )
        return changed

    async def heed_budgets(self) -> None:
        """A budget that was just set holds now, not only from the next sweep on."""
        if await self._budgets.were_set():
            await self._forwarder.rest()
            await self._look_at_budgets()

    async def _look_at_budgets(self) -> None:
        self._doors.grown(await self._budgets.look(self._epoch))

    async def _return_lost(self) -> tuple[Sequence[Row], Sequence[Row]]:
        """Take jobs back whose workers have let their leases run out; the cancelled ones among them need no other.

        Not in the first moments of a term: perhaps PostgreSQL was away until now, and workers that live could not
        renew theirs.
        """
        if time.time() - self._began_at < self._settings.lease_s:
            return [], []
        lost = await self._store.return_lost(self._settings.lease_grace_s, self._epoch)
        for row in lost:
            log.warning(
                "lease ran out: back to the queue",
                job=str(row["id"]),
                store=row["store"],
                worker=row["worker"],
            )
        let_go = await self._store.let_go_lost(self._settings.lease_grace_s, self._epoch)
        for row in let_go:
            log.warning(
                "a cancelled job's worker is gone",
                job=str(row["id"]),
                store=row["store"],
                worker=row["worker"],
                in_doubt=row["doubts"],
            )
        return lost, let_go

    async def _reassign(self) -> None:
        """Take over what somebody has set: which account a store belongs to, and weights."""
        for row in await self._store.configured(self._configured_until):
            self._order.assign(
                row["store"],
                account=row["account"],
                weight=row["weight"],
                account_weight=row["account_weight"],
            )
            self._configured_until = row["configured_at"]
            log.info(
                "a store is set", store=row["store"], account=row["account"], weight=row["weight"]
            )

    async def say_doors(self) -> None:
        await self._doors.say(self._order, time.time(), self._budgets.stopped_until)

    async def look(self) -> None:
        """About once a second: keep an eye on fairness, and say why stores wait."""
        now = time.time()
        standings = self._order.standings(now)
        waiting = defaultdict[str, list[str]](list)
        for standing in (one for one in standings if one.queued):
            waiting[standing.account].append(standing.store)
        self._watch.look(waiting, now)
        await self._outlooks.say(
            standings, self._credit.limited_by(now), self._watch.mean_run_s, self._epoch
        )

    async def report(self) -> None:
        report = messages.scheduler_report(
            self._name,
            self._epoch,
            self._order,
            closed_stores=self._doors.closed_stores,
            fairness=self._watch.last,
            drifted=self._drifted,
            budgets=self._budgets.states,
        )
        await self._publisher.publish(report)

    async def save_lifts(self) -> None:
        """Save what changed in the counters apart from bills."""
        await self._store.save_counters(self._order.take_changes(), self._epoch)

    def next_due(self) -> float | None:
        return self._order.next_due(time.time())

    async def _insert(self, batch: Sequence[BlogRequested], refused: Refused) -> set[UUID]:
        """The new ones' ids. A batch that PostgreSQL refuses is halved until the culprit stands alone."""
        try:
            return await self._store.admit(batch, self._epoch)
        except UNSTORABLE_ERRORS as error:
            if len(batch) == 1:
                refused.append(
                    (batch[0], Permanent(f"PostgreSQL refuses it: {error}", code="unstorable"))
                )
                return set()
        half = len(batch) // 2
        return await self._insert(batch[:half], refused) | await self._insert(batch[half:], refused)

    def _left(self, pick: PickedJob, now: float) -> None:
        self._doors.left(pick.store, now)
        self._outlooks.left(pick.reserved, now)
        self._watch.served(
            pick.store,
            pick.account,
            money_per_weight=pick.reserved / pick.account_weight,
            wait_s=max(now - pick.due_at, 0.0),
        )

    async def _settle_jobs(self, jobs: Sequence[UUID]) -> None:
        if jobs:
            await self._forwarder.rest()
            await self._store.settle(jobs, self._epoch, self._charge)

    def _charge(self, rows: Sequence[Row]) -> list[CounterChange]:
        now = time.time()
        for row in rows:
            self._order.settle(row["id"], row["store"], row["spent"], ended=row["status"] in ENDED)
            self._credit.settled(row["id"])
            if row["run_s"] is not None:
                self._watch.ended(row["run_s"])
            if row["status"] == Status.PENDING:
                self._order.add(messages.waiting_job_from_row(row), now)
            else:
                self._order.withdraw(row["id"])
        self._doors.grown({row["store"] for row in rows})
        self.counts["settled"] += len(rows)
        return self._order.take_changes()

    async def _compare(self) -> None:
        """Repair what differs from PostgreSQL in two comparisons in a row (once may be an event on its way)."""
        truth, book = await self._store.in_flight(), self._order.flying()
        self._note_claims((job, row["worker"]) for job, row in truth.items())
        differing = frozenset(job for job in truth.keys() ^ book.keys() if isinstance(job, UUID))
        drifted = differing & self._suspects
        self._suspects = differing
        if not drifted:
            return
        log.error("slots held and jobs in flight differ: repaired", jobs=len(drifted))
        self._drifted += len(drifted)
        self.counts["drifted"] += len(drifted)
        for job in drifted & truth.keys():
            self._order.adopt(job, truth[job]["store"], truth[job]["estimate_nanousd"])
            self._credit.forwarded(
                job, truth[job]["forwarded_partition"], claimed_by=truth[job]["worker"]
            )
        await self._settle_jobs([job for job in drifted if job in book])
        for job in drifted & self._order.flying().keys() - truth.keys():
            self._forwarder.release(job, book[job][0])  # its row is gone
