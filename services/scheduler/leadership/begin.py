"""Begins a leader session: takes the lead, restores the state and creates the session's parts."""

import time
from dataclasses import dataclass

from services.scheduler.activity import ActivityCounts
from services.scheduler.admission.admitter import RequestAdmitter
from services.scheduler.admission.controller import AdmissionController
from services.scheduler.budgets.tracker import BudgetTracker
from services.scheduler.dispatch.dispatcher import Dispatcher
from services.scheduler.dispatch.ordered_publisher import OrderedPublisher
from services.scheduler.dispatch.recorder import DispatchRecorder
from services.scheduler.dispatch.rules import WorkerCreditTracker
from services.scheduler.estimates.publisher import WaitEstimatePublisher
from services.scheduler.fair_queue.fairness import FairnessMonitor
from services.scheduler.fair_queue.queue import FairQueue
from services.scheduler.leadership.reporter import SchedulerReporter
from services.scheduler.leadership.restore import RestoredQueue, restore_fair_queue
from services.scheduler.leadership.session import LeaderSession
from services.scheduler.liveness.monitor import WorkerMonitor
from services.scheduler.liveness.rules import FailureDetector
from services.scheduler.repository import EpochRepository, SchedulerRepository
from services.scheduler.settings import SchedulerSettings
from services.scheduler.settlement.reclaimer import JobReclaimer
from services.scheduler.settlement.reconciler import InFlightReconciler
from services.scheduler.settlement.settler import JobSettler
from services.scheduler.settlement.store_configuration import StoreConfiguration
from services.scheduler.settlement.sweeper import Sweeper
from services.scheduler.settlement.user_actions import UserActionPoller
from shared.kafka.publisher import Publisher
from shared.observability.log import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SessionState:
    """The state and the clients that the parts of a session share."""

    name: str
    settings: SchedulerSettings
    repository: SchedulerRepository
    publisher: Publisher
    ordered_publisher: OrderedPublisher
    queue: FairQueue
    credit: WorkerCreditTracker
    monitor: FairnessMonitor
    activity: ActivityCounts
    user_actions: UserActionPoller
    restored: RestoredQueue
    began_at: float
    """When the session began, in seconds of the monotonic clock."""


async def begin_session(
    *,
    name: str,
    settings: SchedulerSettings,
    epochs: EpochRepository,
    publisher: Publisher,
    credit: WorkerCreditTracker,
) -> LeaderSession:
    """Raise the epoch, which fences off the previous leader, and restore the state. O(backlog)."""
    began = time.perf_counter()
    state = await _restore_state(name, settings, epochs, publisher, credit)
    session = _create_session(state)
    await session.restore_missed_changes()
    log.info(
        "fair queue restored",
        rows=state.restored.rows,
        waiting=state.queue.pending,
        in_flight=state.queue.in_flight,
        seconds=round(time.perf_counter() - began, 3),
    )
    return session


async def _restore_state(
    name: str,
    settings: SchedulerSettings,
    epochs: EpochRepository,
    publisher: Publisher,
    credit: WorkerCreditTracker,
) -> _SessionState:
    monitor = FairnessMonitor(seconds=settings.fairness_window_s, now=time.time())
    repository = await epochs.take_lead(name)
    began_at = time.monotonic()
    log.info("leader session began", epoch=repository.epoch)
    user_actions = await UserActionPoller.create_poller(repository)
    queue = FairQueue(
        cap=settings.max_per_instance,
        default_cost=settings.default_cost_nanousd,
        hard_cap=settings.hard_cap,
    )
    return _SessionState(
        name=name,
        settings=settings,
        repository=repository,
        publisher=publisher,
        ordered_publisher=OrderedPublisher(publisher),
        queue=queue,
        credit=credit,
        monitor=monitor,
        activity=ActivityCounts(),
        user_actions=user_actions,
        restored=await restore_fair_queue(queue, credit, repository),
        began_at=began_at,
    )


def _create_session(state: _SessionState) -> LeaderSession:
    budgets = BudgetTracker(state.repository, state.queue)
    admission = AdmissionController(state.settings, state.publisher, state.queue, budgets)
    estimates = WaitEstimatePublisher(
        state.repository,
        state.queue,
        state.credit,
        state.monitor,
        hard_cap=state.settings.hard_cap,
    )
    dispatcher = _create_dispatcher(state, DispatchRecorder(admission, estimates, state.monitor))
    settler = _create_settler(state, dispatcher, admission)
    return LeaderSession(
        publisher=state.ordered_publisher,
        admitter=_create_admitter(state, admission),
        admission=admission,
        dispatcher=dispatcher,
        settler=settler,
        sweeper=_create_sweeper(state, budgets, admission, dispatcher, settler),
        estimates=estimates,
        reporter=_create_reporter(state, budgets, admission),
    )


def _create_admitter(state: _SessionState, admission: AdmissionController) -> RequestAdmitter:
    return RequestAdmitter(
        repository=state.repository,
        queue=state.queue,
        publisher=state.ordered_publisher,
        admission=admission,
        batch_size=state.settings.batch_size,
        activity=state.activity,
    )


def _create_dispatcher(state: _SessionState, recorder: DispatchRecorder) -> Dispatcher:
    return Dispatcher(
        repository=state.repository,
        queue=state.queue,
        credit=state.credit,
        publisher=state.ordered_publisher,
        recorder=recorder,
        batch_size=state.settings.batch_size,
        activity=state.activity,
    )


def _create_settler(
    state: _SessionState, dispatcher: Dispatcher, admission: AdmissionController
) -> JobSettler:
    return JobSettler(
        repository=state.repository,
        queue=state.queue,
        credit=state.credit,
        dispatcher=dispatcher,
        admission=admission,
        monitor=state.monitor,
        activity=state.activity,
    )


def _create_sweeper(
    state: _SessionState,
    budgets: BudgetTracker,
    admission: AdmissionController,
    dispatcher: Dispatcher,
    settler: JobSettler,
) -> Sweeper:
    reclaimer = JobReclaimer(
        settings=state.settings,
        session_began_at=state.began_at,
        repository=state.repository,
        publisher=state.publisher,
        dispatcher=dispatcher,
        settler=settler,
        user_actions=state.user_actions,
    )
    reconciler = InFlightReconciler(
        repository=state.repository,
        queue=state.queue,
        credit=state.credit,
        dispatcher=dispatcher,
        settler=settler,
        activity=state.activity,
    )
    return Sweeper(
        reclaimer=reclaimer,
        reconciler=reconciler,
        configuration=StoreConfiguration(
            state.repository, state.queue, state.restored.configured_until
        ),
        budgets=budgets,
        admission=admission,
        dispatcher=dispatcher,
        credit=state.credit,
        workers=WorkerMonitor(
            state.repository,
            FailureDetector(observer=state.name, silence_s=state.settings.worker_silence_s),
        ),
    )


def _create_reporter(
    state: _SessionState, budgets: BudgetTracker, admission: AdmissionController
) -> SchedulerReporter:
    return SchedulerReporter(
        name=state.name,
        epoch=state.repository.epoch,
        publisher=state.publisher,
        queue=state.queue,
        admission=admission,
        budgets=budgets,
        monitor=state.monitor,
        activity=state.activity,
    )
