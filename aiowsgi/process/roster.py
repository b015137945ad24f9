"""Which workers there are, and which there ought to be: the supervisor's decisions, without carrying them out.

Events go in, each with the time: a worker said something or ended, a signal came, time passed. Actions come out
(:meth:`Roster.take_actions`, :mod:`aiowsgi.process.actions`), for :mod:`aiowsgi.process.supervisor` to carry out.

A *slot* is a place for one worker that serves. Whatever happens, there is one rule: a slot without a worker gets one,
at once or after a back-off; a slot whose worker is *wanted gone* (reload; recycling, that too with a back-off) gets
another beside it, one slot at a time, and the old one drains when the new one is ready. So no slot is ever empty on
purpose, except for the moment that a worker takes to end which a reload dismisses while it starts.

::

    STARTING ──ready──> SERVING ──replaced, not wanted──> LEAVING ──over its time──> KILLED
        │                  └──silent──> SILENT ──stacks dumped, or not──> KILLED
        └──too slow──> SILENT

Thread: the supervisor's.
"""

from __future__ import annotations

import logging
import math
import signal
from dataclasses import dataclass

from aiowsgi.process.actions import (
    Action,
    AskToDrain,
    Finish,
    KeepConfiguration,
    Lend,
    Log,
    Phase,
    ReloadGivenUp,
    SendSignal,
    Settled,
    Spawn,
    StopListening,
    Worker,
)
from aiowsgi.process.exit import LEAVING_MARGIN_SECONDS, START_FAILURE
from aiowsgi.process.messages import Message

__all__ = ["NEVER", "Roster", "Slot"]

NEVER = math.inf

# For writing stacks: first by the worker's own signal handler, then by faulthandler, at the cost of the worker.
DUMP_SECONDS = 1.0
# A start may take this many times the timeout: importing an application blocks the loop by nature.
START_FACTOR = 10
# A start that takes longer is logged, since an import that hangs is silent otherwise. Arbitrary.
SLOW_START_SECONDS = 10.0
# A worker that served for this long did not crash because of its start; the back-off starts over.
STABLE_SECONDS = 30.0
FIRST_BACKOFF_SECONDS = 0.5
MOST_BACKOFF_SECONDS = 30.0
# SIGABRT, SIGKILL by name where the platform has them.
ABORT = getattr(signal, "SIGABRT", 6)
KILL = getattr(signal, "SIGKILL", 9)
DUMP = getattr(signal, "SIGUSR1", 10)


@dataclass(slots=True, eq=False)
class Slot:
    """A place for one worker that serves, and for another that starts in order to replace it."""

    number: int
    serving: Worker | None = None
    starting: Worker | None = None
    #: Why the serving worker is to be replaced, and from when on; empty if it is not.
    wanted_gone: str = ""
    wanted_at: float = 0.0
    #: Workers in a row that were recycled, each soon after it was ready.
    worn_count: int = 0
    failure_count: int = 0
    retry_at: float = -NEVER


class Roster:
    """Which workers there are, and what is to be done. Every method that takes ``now`` may leave actions.

    Args:
        count: of workers.
        timeout: seconds of silence after which a worker that starts from now on is replaced; 0 is never.
        graceful_timeout: seconds that a worker's requests have to end.
    """

    def __init__(self, count: int, *, timeout: float, graceful_timeout: float) -> None:
        self.count = count
        self.timeout = timeout
        self.graceful_timeout = graceful_timeout
        self.generation = 0
        #: A worker of this generation has been ready: what it was started with holds.
        self.proven = False
        #: A worker of any generation has been ready: what fails now worked once, and may again.
        self._has_served = False
        self.stopping = False
        self.slots: list[Slot] = []
        #: By number, all workers that have been spawned and have not been seen to end.
        self.workers: dict[int, Worker] = {}
        self._actions: list[Action] = []
        self._worker_count = 0
        #: What ``count`` is to be once the generation is proven.
        self._next_count = count
        self._settled = False
        self._reloading = False
        self._now = -NEVER
        self._failure = ""
        self._finished = False
        #: When the workers cease to serve on; never while there is no such delay.
        self._delay_end = NEVER

    # What is asked for.

    def start(self, now: float) -> None:
        """Fill all slots."""
        self.slots = [Slot(number) for number in range(self.count)]
        self._settle(now)

    def reload(self, now: float, count: int | None = None) -> None:
        """Replace every worker, one at a time; ``count`` is their number from the first new one on that is ready."""
        if self.stopping:
            return
        self.generation += 1
        self.proven = False
        self._next_count = self.count if count is None else count
        self._reloading = True
        self._dismiss_starting(now)
        for slot in self.slots:
            slot.failure_count = slot.worn_count = 0
            slot.retry_at = -NEVER
            if slot.serving is not None:
                # Another reason outlives a reload that is given up: the worker tells it only once.
                self._want_gone(slot, slot.wanted_gone or "reload", now)
        self._settle(now)

    def resize(self, change: int, now: float) -> None:
        """Have more or fewer workers, one at least."""
        count = max(1, self.count + change)
        if self.stopping or count == self.count:
            return
        self._log(logging.INFO, f"{count} worker{'s' if count > 1 else ''} from now on")
        self._settled = False
        self._next_count = max(1, self._next_count + change)
        self._set_count(count, now)
        self._settle(now)

    def stop(self, seconds: float, now: float, *, drain_delay: float = 0.0) -> None:
        """Let all workers leave; a further call can only make that sooner.

        Args:
            seconds: that their requests have to finish.
            now: the time.
            drain_delay: seconds for which they first serve on.
        """
        told_before, self.stopping = self.stopping, True
        if not told_before:
            self._actions.append(StopListening(serve_on=drain_delay > 0))
            self._delay_end = now + drain_delay if drain_delay else NEVER
        elif not drain_delay:
            self._end_delay()
        for worker in list(self.workers.values()):
            if not told_before or now + drain_delay + seconds + LEAVING_MARGIN_SECONDS < worker.deadline:
                self._dismiss(worker, now, seconds, leave_backlog=False, drain_delay=drain_delay)
        for slot in self.slots:
            slot.serving = slot.starting = None
        self._settle(now)

    def kill(self) -> None:
        """Kill all workers."""
        for worker in self.workers.values():
            self._kill(worker)

    # What happens.

    def message(self, number: int, message: Message, now: float) -> None:
        """A worker has said something."""
        worker = self.workers.get(number)
        if worker is None:
            return
        kind = message.get("type")
        if kind == "dumped":
            if worker.phase is Phase.SILENT:
                self._kill(worker)
        elif worker.phase is Phase.SILENT:
            if worker.ready_at:  # its loop turns again: let its requests finish
                self._dismiss(worker, now)
        elif kind == "ready" and worker.phase is Phase.STARTING:
            self._ready(worker, now)
        elif kind == "ready" and worker.phase is Phase.LEAVING and not self.stopping:
            # It was ready when it was dismissed, and may have requests.
            worker.ready_at = now
            self._expect_end(worker, self.graceful_timeout, now)
        elif kind == "failed":
            worker.failure = str(message.get("text", ""))
            if worker.phase is Phase.STARTING:
                worker.deadline = min(worker.deadline, now + LEAVING_MARGIN_SECONDS)
        elif kind == "stopped":
            worker.deadline = min(worker.deadline, now + LEAVING_MARGIN_SECONDS)
        elif worker.phase is Phase.SERVING:
            worker.deadline = now + worker.timeout if worker.timeout else NEVER
            if kind == "recycle":
                self._recycle(worker, str(message.get("reason", "")), now)
            elif kind == "leaving":
                self._vacate(worker)
                self._expect_end(worker, self.graceful_timeout, now)
        self._settle(now)

    def ended(self, number: int, how: str, exit_code: int, now: float) -> None:
        """A worker's process is gone.

        Args:
            number: of the worker.
            how: for the log: ``"was killed by SIGKILL"``.
            exit_code: negative if a signal killed it.
            now: the time.
        """
        worker = self.workers.pop(number)
        slot = self._vacate(worker)
        if slot is not None and worker.phase is Phase.STARTING:
            self._start_failed(worker, slot, how, exit_code, now)
        elif slot is not None:
            self._log(logging.ERROR, f"{worker} {how}; it is replaced")
            self._crashed(worker, slot, now)
        elif worker.phase is Phase.LEAVING and worker.ready_at and exit_code:
            self._log(logging.WARNING, f"{worker} {how} while it was leaving")
        self._settle(now)

    def stood_still(self, seconds: float) -> None:
        """The supervisor did not run for so long; perhaps the whole machine's or container's processes did not.

        Nobody could be heard meanwhile, and a worker that stood still as well says nothing before it runs again: what
        each had left of its time it has left now. The suspension of a machine is none of that: its clock stops too.
        """
        for worker in self.workers.values():
            worker.begun_at += seconds
            worker.deadline += seconds

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self._delay_end <= now:
            self._end_delay()
        for worker in list(self.workers.values()):
            if worker.deadline <= now:
                self._overdue(worker, now)
        self._settle(now)

    @property
    def deadline(self) -> float:
        """When :meth:`tick` is to be called at the latest."""
        due = [self._delay_end, *(worker.deadline for worker in self.workers.values())]
        if not self.stopping:
            # A slot whose time has passed waits for something else: its turn.
            for slot in self.slots:
                if slot.starting is None:
                    due.extend(at for at in (slot.retry_at, slot.wanted_at) if at > self._now)
        return min(due)

    def take_actions(self) -> list[Action]:
        """Return what is to be done, in order, once."""
        actions, self._actions = self._actions, []
        return actions

    # The rule.

    def _settle(self, now: float) -> None:
        """Spawn missing workers; report once none is missing."""
        self._now = now
        if self.stopping:
            if not self.workers and not self._finished:
                self._finished = True
                self._actions.append(Finish(self._failure))
            return
        # Those that were dismissed before they were ready: each takes a while to end, and there may be many reloads.
        ending = {
            worker.slot for worker in self.workers.values() if worker.phase is Phase.LEAVING and not worker.ready_at
        }
        for slot in self.slots:
            if slot.serving is None and slot.starting is None and slot.retry_at <= now and slot.number not in ending:
                self._spawn(slot, now)
        if not ending and not any(slot.serving and slot.starting for slot in self.slots):
            unwanted = [
                slot
                for slot in self.slots
                if slot.serving and slot.wanted_gone and max(slot.retry_at, slot.wanted_at) <= now
            ]
            if unwanted:
                self._spawn(min(unwanted, key=lambda slot: slot.wanted_at), now)
        if (self._reloading or not self._settled) and all(self._is_settled(slot) for slot in self.slots):
            self._settled = True
            self._reloading = False
            self._actions.append(Settled())

    def _is_settled(self, slot: Slot) -> bool:
        return slot.serving is not None and not (self._reloading and slot.serving.generation < self.generation)

    def _spawn(self, slot: Slot, now: float) -> None:
        self._worker_count += 1
        deadline = now + min(SLOW_START_SECONDS, self._start_timeout)
        worker = Worker(self._worker_count, slot.number, self.generation, now, deadline, self.timeout)
        self.workers[worker.number] = slot.starting = worker
        self._actions.append(Spawn(worker))

    @property
    def _start_timeout(self) -> float:
        return START_FACTOR * self.timeout if self.timeout else NEVER

    def _ready(self, worker: Worker, now: float) -> None:
        slot = self.slots[worker.slot]
        old, slot.serving, slot.starting = slot.serving, worker, None
        slot.wanted_gone = ""
        worker.phase, worker.ready_at = Phase.SERVING, now
        worker.deadline = now + worker.timeout if worker.timeout else NEVER
        if old is not None:
            self._dismiss(old, now)
        self._has_served = True
        if worker.generation == self.generation:
            self.proven = True
            self._set_count(self._next_count, now)

    def _start_failed(self, worker: Worker, slot: Slot, how: str, exit_code: int, now: float) -> None:
        """A worker has ended before it was ready."""
        reason = worker.failure or f"it {how} before it was ready"
        if not self._has_served and (worker.failure or exit_code == START_FAILURE):
            self._failure = reason
            self.stop(self.graceful_timeout, now)
            return
        if self._has_served and self._reloading and worker.generation == self.generation:
            self._give_up_reload(worker, reason, now)
        else:
            others = ", the others serve on" if any(other.serving for other in self.slots) else ""
            self._log(logging.ERROR, f"{worker} cannot start{others}: {reason}")
        self._back_off(slot, now, at_least=1)

    def _give_up_reload(self, worker: Worker, reason: str, now: float) -> None:
        self._reloading = False
        self._next_count = self.count
        self._dismiss_starting(now)
        for slot in self.slots:
            if slot.wanted_gone == "reload":
                slot.wanted_gone = ""
        if not self.proven:
            self._actions.append(KeepConfiguration())
        self._actions.append(ReloadGivenUp(f"{worker} cannot start: {reason}"))

    def _crashed(self, worker: Worker, slot: Slot, now: float) -> None:
        if worker.ready_at and now - worker.ready_at >= STABLE_SECONDS:
            slot.failure_count = 0
        self._back_off(slot, now)

    def _back_off(self, slot: Slot, now: float, at_least: int = 0) -> None:
        """Decide when the slot is filled again: immediately the first time, then later and later."""
        count = max(slot.failure_count, at_least)
        seconds = _backoff_seconds(count)
        slot.failure_count = count + 1
        slot.retry_at = now + seconds
        if seconds and slot.serving is None:
            self._log(logging.WARNING, f"slot {slot.number} gets its next worker in {seconds:g} s")
            self._lend(slot.number)

    def _lend(self, number: int) -> None:
        """Have another worker accept from the sockets of a slot that no worker serves."""
        for slot in self.slots:
            if slot.serving is not None and slot.number != number:
                self._actions.append(Lend(slot.serving, number))
                return

    def _set_count(self, count: int, now: float) -> None:
        self.count = count
        while len(self.slots) < count:
            self.slots.append(Slot(len(self.slots)))
        while len(self.slots) > count:
            if self.slots[-1].serving is not None:
                self._save_last_slot()
            slot = self.slots.pop()
            self._lend(slot.number)
            for worker in (slot.serving, slot.starting):
                if worker is not None:
                    self._dismiss(worker, now)

    def _save_last_slot(self) -> None:
        """Have one go in its place that no worker serves, if there is one: who serves, and what follows it, stays."""
        last = self.slots[-1]
        vacant = next((slot for slot in self.slots if slot.serving is None), None)
        if vacant is None:
            return
        last.number, vacant.number = vacant.number, last.number
        for slot in (last, vacant):
            self.slots[slot.number] = slot
            for worker in (slot.serving, slot.starting):
                if worker is not None:
                    worker.slot = slot.number
        assert last.serving is not None  # the caller has seen to that
        self._actions.append(Lend(last.serving, last.number))

    # Ends.

    def _dismiss_starting(self, now: float) -> None:
        """Have workers leave that are not ready, and serve nobody: what they were started for no longer holds."""
        for slot in self.slots:
            if slot.starting is not None:
                self._dismiss(slot.starting, now)
                slot.starting = None

    def _recycle(self, worker: Worker, reason: str, now: float) -> None:
        """Have another worker take this one's place: later and later, if that does not help for long."""
        slot = self.slots[worker.slot]
        if now - worker.ready_at >= STABLE_SECONDS:
            slot.worn_count = 0
        # Each that is replaced may keep its requests, and so its memory, for as long as ``graceful_timeout``.
        seconds = _backoff_seconds(slot.worn_count)
        slot.worn_count += 1
        when = f" in {seconds:g} s, as those before it did not last either" if seconds else ""
        self._log(logging.INFO, f"{worker} is to be replaced{when}: {reason}")
        self._want_gone(slot, reason, now + seconds)

    def _want_gone(self, slot: Slot, reason: str, at: float) -> None:
        slot.wanted_at = min(at, slot.wanted_at) if slot.wanted_gone else at
        slot.wanted_gone = reason or "recycling"

    def _vacate(self, worker: Worker) -> Slot | None:
        """Take a worker out of its slot; return the slot, or ``None`` if it was in none."""
        for slot in self.slots:
            if slot.serving is worker:
                slot.serving = None
                slot.wanted_gone = ""
                return slot
            if slot.starting is worker:
                slot.starting = None
                return slot
        return None

    def _dismiss(
        self,
        worker: Worker,
        now: float,
        seconds: float | None = None,
        *,
        leave_backlog: bool = True,
        drain_delay: float = 0.0,
    ) -> None:
        """Have a worker leave."""
        if worker.phase is Phase.KILLED:
            return
        seconds = self.graceful_timeout if seconds is None else seconds
        has_requests = worker.phase is not Phase.STARTING or self.stopping
        if worker.phase is Phase.STARTING:
            self._actions.append(SendSignal(worker, signal.SIGTERM))  # it may be importing, and hear nothing else
        self._actions.append(AskToDrain(worker, seconds, leave_backlog, serve_on=drain_delay > 0))
        self._expect_end(worker, drain_delay + seconds if has_requests else 0.0, now)

    def _expect_end(self, worker: Worker, seconds: float, now: float) -> None:
        worker.phase = Phase.LEAVING
        worker.deadline = now + seconds + LEAVING_MARGIN_SECONDS

    def _end_delay(self) -> None:
        """The workers serve on no more, if they did."""
        if self._delay_end < NEVER:
            self._delay_end = NEVER
            self._actions.append(StopListening())

    def _overdue(self, worker: Worker, now: float) -> None:
        if worker.phase is Phase.LEAVING:
            self._log(logging.WARNING, f"{worker} does not leave; it is killed")
            self._kill(worker)
        elif worker.phase is Phase.SILENT:
            if worker.aborted:
                self._kill(worker)
            else:
                worker.aborted, worker.deadline = True, now + DUMP_SECONDS
                self._actions.append(SendSignal(worker, ABORT))
        elif worker.phase is Phase.STARTING and worker.failure:
            worker.deadline = NEVER
            self._actions.append(SendSignal(worker, KILL))  # something that atexit calls does not return
        elif worker.phase is Phase.STARTING and now < worker.begun_at + self._start_timeout:
            text = f"{worker} has not become ready for {now - worker.begun_at:.0f} s; SIGUSR1 has its stacks logged"
            self._log(logging.WARNING, text)
            worker.deadline = worker.begun_at + self._start_timeout
        else:
            self._fall_silent(worker, now)

    def _fall_silent(self, worker: Worker, now: float) -> None:
        starting = worker.phase is Phase.STARTING
        if starting:
            text = f"has not become ready for {self._start_timeout:g} s"
        else:
            text = f"event loop has been silent for {worker.timeout:g} s"
        self._log(logging.CRITICAL, f"{worker}: {text}; its stacks are dumped and it is replaced")
        slot = self._vacate(worker)
        worker.phase, worker.deadline = Phase.SILENT, now + DUMP_SECONDS
        self._actions.append(SendSignal(worker, DUMP))
        if slot is not None and starting and any(other.serving for other in self.slots):
            if self._reloading and worker.generation == self.generation:
                self._give_up_reload(worker, f"it {text}", now)
            self._back_off(slot, now, at_least=1)
        elif slot is not None:
            self._crashed(worker, slot, now)

    def _kill(self, worker: Worker) -> None:
        worker.phase, worker.deadline = Phase.KILLED, NEVER
        self._actions.append(SendSignal(worker, KILL))

    def _log(self, level: int, text: str) -> None:
        self._actions.append(Log(level, text))


def _backoff_seconds(count: int) -> float:
    """Return how long to wait before what was in vain so many times is done again: not at all the first time."""
    return min(MOST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** (min(count, 16) - 1)) if count else 0.0
