"""The supervisor's decisions, with a clock that the test sets."""

from __future__ import annotations

import signal
from typing import Any

import pytest

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
from aiowsgi.process.roster import Roster


class Stage:
    """A roster and its clock; what it does is remembered until it is looked at."""

    def __init__(self, count: int = 2, timeout: float = 30.0, graceful_timeout: float = 25.0) -> None:
        self.now = 1000.0
        self.roster = Roster(count, timeout=timeout, graceful_timeout=graceful_timeout)
        self.roster.start(self.now)

    def actions(self) -> list[Action]:
        return self.roster.take_actions()

    def spawned(self) -> list[Worker]:
        """Return the workers that were spawned, and forget what else was done."""
        return [action.worker for action in self.actions() if isinstance(action, Spawn)]

    def say(self, worker: Worker, kind: str, **fields: Any) -> None:
        self.roster.message(worker.number, {"type": kind, **fields}, self.now)

    def end(self, worker: Worker, exit_code: int = -9) -> None:
        self.roster.ended(worker.number, f"ended with {exit_code}", exit_code, self.now)

    def wait(self, seconds: float) -> None:
        """Let time pass, as the supervisor does: from deadline to deadline."""
        end = self.now + seconds
        while self.roster.deadline <= end:
            assert self.roster.deadline >= self.now, "a deadline that has passed would be waited for in a circle"
            self.now = max(self.now, self.roster.deadline)
            self.roster.tick(self.now)
        self.now = end

    def started(self) -> list[Worker]:
        """Have all workers become ready that were spawned."""
        workers = self.spawned()
        for worker in workers:
            self.say(worker, "ready")
        return workers


def of_kind(actions: list[Action], kind: type) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


def test_start_spawns_all_and_is_settled_once_all_are_ready() -> None:
    stage = Stage(3)
    first, second, third = stage.spawned()
    assert [worker.slot for worker in (first, second, third)] == [0, 1, 2]
    stage.say(first, "ready")
    stage.say(third, "ready")
    assert stage.actions() == []
    stage.say(second, "ready")
    assert stage.actions() == [Settled()]


def test_worker_that_is_killed_is_replaced_at_once_and_a_crash_loop_is_slowed_down() -> None:
    stage = Stage(1)
    (worker,) = stage.started()
    delays = []
    for _ in range(9):
        stage.actions()
        stage.end(worker)
        died_at = stage.now
        stage.wait(60 if stage.roster.deadline > stage.now else 0)
        worker = of_kind(stage.actions(), Spawn)[0].worker
        delays.append(worker.begun_at - died_at)
        stage.say(worker, "ready")
    assert delays == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]


def test_back_off_begins_anew_after_a_worker_that_served_for_long() -> None:
    stage = Stage(1, timeout=0)
    (worker,) = stage.started()
    for _ in range(3):
        stage.end(worker)
        stage.wait(10)
        (worker,) = stage.started()
    stage.wait(31)
    stage.end(worker)
    assert [each.begun_at for each in stage.spawned()] == [stage.now]


def test_worker_that_cannot_start_at_first_ends_all_with_its_reason() -> None:
    stage = Stage(2)
    first, second = stage.spawned()
    stage.say(first, "failed", text="module 'x' is not there")
    stage.end(first, 3)
    actions = stage.actions()
    assert SendSignal(second, signal.SIGTERM) in actions
    assert of_kind(actions, Finish) == []
    stage.end(second, -15)
    assert stage.actions() == [Finish("module 'x' is not there")]


def test_worker_that_cannot_start_and_does_not_end_is_killed_for_that_reason() -> None:
    stage = Stage(1)
    (worker,) = stage.spawned()
    stage.say(worker, "failed", text="module 'x' is not there")
    stage.wait(6)
    assert stage.actions() == [SendSignal(worker, signal.SIGKILL)]
    stage.end(worker)
    assert of_kind(stage.actions(), Finish) == [Finish("module 'x' is not there")]


def test_worker_that_dies_before_it_is_ready_is_tried_again_later() -> None:
    stage = Stage(1)
    (worker,) = stage.spawned()
    stage.end(worker, -11)
    assert stage.spawned() == []
    stage.wait(0.5)
    assert len(stage.spawned()) == 1


def test_replacement_that_cannot_start_leaves_the_others_serving_and_is_tried_again() -> None:
    stage = Stage(2)
    first, second = stage.started()
    stage.end(first)
    (third,) = stage.spawned()
    stage.say(third, "failed", text="no database")
    stage.end(third, 3)
    actions = stage.actions()
    assert not of_kind(actions, Finish)
    assert any("no database" in action.text for action in of_kind(actions, Log))
    assert of_kind(actions, Lend) == [Lend(second, 0)]
    stage.wait(1)
    assert len(stage.spawned()) == 1


def test_last_worker_whose_replacement_cannot_start_is_replaced_again_later() -> None:
    stage = Stage(1)
    (first,) = stage.started()
    stage.end(first)
    (second,) = stage.spawned()
    stage.say(second, "failed", text="no database")
    stage.end(second, 3)
    actions = stage.actions()
    assert of_kind(actions, Finish) == []
    assert "worker 2 cannot start: no database" in [action.text for action in of_kind(actions, Log)]
    stage.wait(1)
    (third,) = stage.spawned()
    stage.say(third, "ready")
    assert of_kind(stage.actions(), Settled) == []
    assert third.phase is Phase.SERVING


def test_reload_that_the_last_worker_does_not_live_to_see_fail_goes_back_to_the_old_configuration() -> None:
    stage = Stage(1)
    (old,) = stage.started()
    stage.roster.reload(stage.now)
    (new,) = stage.spawned()
    stage.end(old)
    stage.actions()
    stage.say(new, "failed", text="SyntaxError")
    stage.end(new, 3)
    actions = stage.actions()
    assert of_kind(actions, Finish) == []
    assert of_kind(actions, KeepConfiguration) == [KeepConfiguration()]
    assert of_kind(actions, ReloadGivenUp) == [ReloadGivenUp("worker 2 cannot start: SyntaxError")]
    stage.wait(1)
    assert len(stage.spawned()) == 1


def test_reload_replaces_one_worker_at_a_time_the_new_one_ready_first() -> None:
    stage = Stage(3)
    old = stage.started()
    stage.actions()
    stage.roster.reload(stage.now)
    for worker in old:
        actions = stage.actions()
        (spawn,) = of_kind(actions, Spawn)
        assert spawn.worker.slot == worker.slot
        assert spawn.worker.generation == 1
        assert worker.phase is Phase.SERVING
        assert Settled() not in actions
        stage.say(spawn.worker, "ready")
        assert worker.phase is Phase.LEAVING
    actions = stage.actions()
    assert actions == [AskToDrain(old[-1], 25.0, leave_backlog=True), Settled()]
    for worker in old:
        stage.end(worker, 0)
    assert stage.actions() == []


def test_reload_whose_first_worker_cannot_start_keeps_the_old_ones_and_the_old_configuration() -> None:
    stage = Stage(2)
    old = stage.started()
    stage.actions()
    stage.roster.reload(stage.now)
    (new,) = stage.spawned()
    stage.say(new, "failed", text="SyntaxError")
    stage.end(new, 3)
    actions = stage.actions()
    assert actions == [KeepConfiguration(), ReloadGivenUp("worker 3 cannot start: SyntaxError")]
    assert [worker.phase for worker in old] == [Phase.SERVING, Phase.SERVING]
    stage.wait(20)
    assert stage.spawned() == []
    stage.roster.reload(stage.now)
    (new,) = stage.spawned()
    stage.say(new, "ready")
    assert old[0].phase is Phase.LEAVING


def test_reload_whose_first_worker_hangs_is_given_up_too() -> None:
    stage = Stage(2)
    old = stage.started()
    stage.actions()
    stage.roster.reload(stage.now)
    (new,) = stage.spawned()
    for _ in range(20):
        stage.wait(15)
        for worker in old:
            stage.say(worker, "heartbeat")
    actions = stage.actions()
    assert SendSignal(new, signal.SIGUSR1) in actions
    assert of_kind(actions, KeepConfiguration)
    (given_up,) = of_kind(actions, ReloadGivenUp)
    assert given_up.reason == "worker 3 cannot start: it has not become ready for 300 s"
    assert of_kind(actions, Settled) == []
    assert of_kind(actions, Spawn) == []
    assert [worker.phase for worker in old] == [Phase.SERVING, Phase.SERVING]


@pytest.mark.parametrize(("count", "next_count"), [(4, 2), (2, 4)], ids=["fewer", "more"])
def test_reload_with_another_number_of_workers_that_is_given_up_leaves_those_that_serve(
    count: int, next_count: int
) -> None:
    stage = Stage(count)
    old = stage.started()
    stage.actions()
    stage.roster.reload(stage.now, next_count)
    (new,) = stage.spawned()
    stage.end(new, 3)
    assert [worker.phase for worker in old] == [Phase.SERVING] * count
    assert stage.roster.count == count
    stage.wait(20)
    assert stage.spawned() == []


@pytest.mark.parametrize(("count", "next_count"), [(4, 2), (2, 4)], ids=["fewer", "more"])
def test_reload_with_another_number_of_workers_has_that_once_a_new_one_is_ready(count: int, next_count: int) -> None:
    stage = Stage(count)
    old = stage.started()
    stage.actions()
    stage.roster.reload(stage.now, next_count)
    assert [worker.phase for worker in old] == [Phase.SERVING] * count
    while new := stage.spawned():
        for worker in new:
            stage.say(worker, "ready")
            assert stage.roster.count == next_count
    assert [worker.phase for worker in old] == [Phase.LEAVING] * count
    phases = [worker.phase for worker in stage.roster.workers.values()]
    assert phases.count(Phase.SERVING) == next_count


def test_number_of_workers_that_a_signal_changes_during_a_reload_is_that_of_the_reload_and_one_more() -> None:
    stage = Stage(2)
    stage.started()
    stage.actions()
    stage.roster.reload(stage.now, 4)
    stage.roster.resize(1, stage.now)
    assert stage.roster.count == 3
    for worker in stage.spawned():
        stage.say(worker, "ready")
    assert stage.roster.count == 5


def test_reload_that_another_follows_leaves_its_number_of_workers_unused() -> None:
    stage = Stage(2)
    stage.started()
    stage.roster.reload(stage.now, 4)
    (first,) = stage.spawned()
    stage.roster.reload(stage.now)
    assert first.phase is Phase.LEAVING
    stage.end(first, -15)
    (second,) = stage.spawned()
    stage.say(second, "ready")
    assert stage.roster.count == 2


def test_reload_that_is_given_up_while_a_slot_is_empty_is_told_at_once() -> None:
    stage = Stage(2)
    first, _ = stage.started()
    stage.end(first)
    (third,) = stage.spawned()
    stage.end(third, 3)
    stage.roster.reload(stage.now)
    fourth, _ = stage.spawned()
    stage.actions()
    stage.end(fourth, 3)
    assert of_kind(stage.actions(), ReloadGivenUp) == [
        ReloadGivenUp("worker 4 cannot start: it ended with 3 before it was ready")
    ]


def test_reload_that_is_given_up_has_none_of_its_other_workers_replace_one() -> None:
    stage = Stage(2)
    first, second = stage.started()
    stage.end(first)
    (third,) = stage.spawned()
    stage.end(third, 3)
    stage.roster.reload(stage.now)
    fourth, fifth = stage.spawned()
    stage.end(fourth, 3)
    assert SendSignal(fifth, signal.SIGTERM) in stage.actions()
    stage.say(fifth, "ready")
    assert second.phase is Phase.SERVING
    stage.end(fifth, -15)
    stage.wait(1)
    assert [worker.slot for worker in stage.spawned()] == [0]


def test_reload_that_is_given_up_during_the_start_leaves_that_to_be_told() -> None:
    stage = Stage(2)
    first, second = stage.spawned()
    stage.say(first, "ready")
    stage.roster.reload(stage.now)
    stage.end(second, -15)
    third, _ = stage.spawned()
    stage.end(third, 3)
    actions = stage.actions()
    assert of_kind(actions, ReloadGivenUp)
    assert of_kind(actions, Settled) == []
    stage.wait(1)
    (last,) = stage.spawned()
    stage.say(last, "ready")
    assert of_kind(stage.actions(), Settled) == [Settled()]


def test_reload_during_a_reload_begins_anew() -> None:
    stage = Stage(2)
    old = stage.started()
    stage.actions()
    stage.roster.reload(stage.now)
    (first,) = stage.spawned()
    stage.roster.reload(stage.now)
    assert first.phase is Phase.LEAVING
    stage.end(first, -15)
    (second,) = stage.spawned()
    assert second.generation == 2
    stage.say(second, "ready")
    (third,) = stage.spawned()
    stage.say(third, "ready")
    assert of_kind(stage.actions(), Settled) == [Settled()]
    assert all(worker.phase is Phase.LEAVING for worker in old)


def test_reloads_in_a_row_start_a_worker_only_once_the_one_before_has_ended() -> None:
    stage = Stage(2)
    stage.started()
    stage.actions()
    for _ in range(50):
        stage.roster.reload(stage.now)
    (first,) = stage.spawned()
    stage.wait(4.9)
    assert stage.spawned() == []
    stage.end(first, -15)
    (second,) = stage.spawned()
    assert second.generation == 50


def test_reloads_in_a_row_while_all_start_start_each_only_once_the_one_before_has_ended() -> None:
    stage = Stage(2)
    first, _ = stage.spawned()
    for _ in range(50):
        stage.roster.reload(stage.now)
    assert stage.spawned() == []
    stage.end(first, -15)
    assert [worker.slot for worker in stage.spawned()] == [0]


def test_starting_worker_that_a_reload_dismisses_and_that_does_not_end_is_killed_and_replaced() -> None:
    stage = Stage(1)
    (first,) = stage.spawned()
    stage.roster.reload(stage.now)
    stage.actions()
    stage.wait(5)
    actions = stage.actions()
    assert SendSignal(first, signal.SIGKILL) in actions
    assert len(of_kind(actions, Spawn)) == 1


def test_worker_that_was_ready_when_a_reload_dismissed_it_has_time_for_its_requests() -> None:
    stage = Stage(1)
    (first,) = stage.spawned()
    stage.roster.reload(stage.now)
    stage.say(first, "ready")
    assert len(stage.spawned()) == 1
    stage.wait(29)
    assert first.phase is Phase.LEAVING


def test_more_and_fewer_workers() -> None:
    stage = Stage(1)
    stage.started()
    stage.actions()
    stage.roster.resize(1, stage.now)
    (second,) = stage.spawned()
    stage.say(second, "ready")
    stage.actions()
    stage.roster.resize(-1, stage.now)
    actions = stage.actions()
    assert of_kind(actions, AskToDrain) == [AskToDrain(second, 25.0, leave_backlog=True)]
    (lend,) = of_kind(actions, Lend)
    assert lend.slot == 1
    stage.end(second, 0)
    stage.roster.resize(-1, stage.now)
    assert stage.actions() == []


def test_recycling_replaces_one_worker_at_a_time_and_the_old_one_serves_until_then() -> None:
    stage = Stage(2)
    first, second = stage.started()
    stage.actions()
    stage.say(first, "recycle", reason="1000 requests")
    stage.say(second, "recycle", reason="1000 requests")
    (third,) = stage.spawned()
    assert first.phase is second.phase is Phase.SERVING
    stage.say(third, "ready")
    (fourth,) = stage.spawned()
    assert (first.phase, second.phase) == (Phase.LEAVING, Phase.SERVING)
    stage.say(fourth, "ready")
    assert second.phase is Phase.LEAVING


def test_recycling_whose_replacement_cannot_start_is_tried_again_later() -> None:
    stage = Stage(1)
    (first,) = stage.started()
    stage.say(first, "recycle", reason="old")
    (second,) = stage.spawned()
    stage.end(second, 3)
    assert first.phase is Phase.SERVING
    assert stage.spawned() == []
    for _ in range(10):
        stage.wait(0.1)
        stage.say(first, "heartbeat")
    assert len(stage.spawned()) == 1


def test_recycling_that_does_not_help_for_long_is_slowed_down_and_begins_anew_once_it_does() -> None:
    stage = Stage(1, timeout=0)
    (worker,) = stage.started()
    delays = []
    for lasting_seconds in (0, 0, 0, 0, 0, 0, 0, 0, 0, 31, 0):
        stage.wait(lasting_seconds)
        stage.say(worker, "recycle", reason="33 MiB of memory, over 20M")
        worn_at = stage.now
        stage.wait(60)
        assert worker.phase is Phase.SERVING
        old, (worker,) = worker, stage.started()
        delays.append(worker.begun_at - worn_at)
        assert old.phase is Phase.LEAVING
        stage.end(old, 0)
    assert delays == [0, 0.5, 1, 2, 4, 8, 16, 30, 30, 0, 0.5]


@pytest.mark.parametrize("dies", [True, False], ids=["dies", "leaves"])
def test_worker_that_waits_to_be_recycled_and_ends_before_is_replaced_at_once(dies: bool) -> None:
    stage = Stage(1)
    (first,) = stage.started()
    stage.say(first, "recycle", reason="old")
    (second,) = stage.started()
    stage.say(second, "recycle", reason="old")
    assert stage.spawned() == []
    if dies:
        stage.end(second)
    else:
        stage.say(second, "leaving")
    assert len(stage.spawned()) == 1


def test_reload_does_not_wait_for_a_recycling_that_is_put_off() -> None:
    stage = Stage(1)
    (first,) = stage.started()
    stage.say(first, "recycle", reason="old")
    (second,) = stage.started()
    stage.say(second, "recycle", reason="old")
    stage.roster.reload(stage.now)
    (third,) = stage.started()
    assert (second.phase, third.phase) == (Phase.LEAVING, Phase.SERVING)
    stage.wait(20)
    assert stage.spawned() == []


def test_recycling_that_a_failed_reload_came_between_is_done_all_the_same() -> None:
    stage = Stage(2)
    first, second = stage.started()
    stage.say(first, "recycle", reason="600 MiB of memory")
    (third,) = stage.spawned()
    stage.roster.reload(stage.now)
    stage.end(third, -15)
    (fourth,) = stage.spawned()
    stage.end(fourth, 3)
    stage.wait(1)
    (fifth,) = stage.spawned()
    stage.say(fifth, "ready")
    assert (first.phase, second.phase) == (Phase.LEAVING, Phase.SERVING)
    assert stage.spawned() == []


def test_recycling_that_a_reload_came_between_is_done_once() -> None:
    stage = Stage(1)
    (first,) = stage.started()
    stage.say(first, "recycle", reason="600 MiB of memory")
    (dismissed,) = stage.spawned()
    stage.roster.reload(stage.now)
    stage.end(dismissed, -15)
    (second,) = stage.spawned()
    stage.say(second, "ready")
    assert (first.phase, second.phase) == (Phase.LEAVING, Phase.SERVING)
    assert of_kind(stage.actions(), Spawn) == []


def test_worker_that_leaves_on_its_own_is_replaced_at_once() -> None:
    stage = Stage(1)
    (first,) = stage.started()
    stage.actions()
    stage.say(first, "leaving")
    assert len(stage.spawned()) == 1
    stage.end(first, 0)
    assert stage.actions() == []


def test_starting_worker_that_is_one_too_many_holds_up_no_reload_for_long() -> None:
    stage = Stage(1)
    stage.started()
    stage.roster.resize(1, stage.now)
    (starting,) = stage.spawned()
    stage.roster.resize(-1, stage.now)
    stage.roster.reload(stage.now)
    assert stage.spawned() == []
    stage.wait(6)
    actions = stage.actions()
    assert SendSignal(starting, signal.SIGKILL) in actions
    assert len(of_kind(actions, Spawn)) == 1


def test_fewer_workers_leave_the_one_that_serves() -> None:
    stage = Stage(2)
    first, second = stage.spawned()
    stage.say(second, "ready")
    stage.end(first, 3)
    stage.actions()
    stage.roster.resize(-1, stage.now)
    actions = stage.actions()
    assert of_kind(actions, AskToDrain) == []
    assert Lend(second, 0) in actions
    assert Settled() in actions
    assert (second.phase, second.slot) == (Phase.SERVING, 0)
    for _ in range(3):
        stage.wait(20)
        stage.say(second, "heartbeat")
    assert stage.spawned() == []
    stage.say(second, "recycle", reason="old")
    (third,) = stage.started()
    assert (second.phase, third.phase) == (Phase.LEAVING, Phase.SERVING)


def test_reload_with_fewer_workers_leaves_the_new_one_that_serves() -> None:
    stage = Stage(2)
    first, second = stage.started()
    stage.end(first)
    (dismissed,) = stage.spawned()
    stage.roster.reload(stage.now, 1)
    stage.end(dismissed, -15)
    third, fourth = stage.spawned()
    assert (third.slot, fourth.slot) == (0, 1)
    stage.say(fourth, "ready")
    assert (second.phase, third.phase, fourth.phase) == (Phase.LEAVING, Phase.LEAVING, Phase.SERVING)
    assert fourth.slot == 0
    assert Settled() in stage.actions()


def test_reload_with_a_shorter_timeout_leaves_the_workers_before_it_the_one_that_they_know() -> None:
    stage = Stage(1)
    (first,) = stage.started()
    stage.roster.timeout = 0.5
    stage.roster.reload(stage.now)
    (second,) = stage.spawned()
    stage.say(first, "heartbeat")
    stage.wait(0.9)
    stage.say(first, "heartbeat")
    assert first.phase is Phase.SERVING
    stage.say(second, "ready")
    stage.wait(0.9)
    assert second.phase is Phase.SILENT


def test_silent_worker_has_its_stacks_dumped_and_is_killed_and_replaced() -> None:
    stage = Stage(1)
    (worker,) = stage.started()
    stage.wait(29)
    stage.say(worker, "heartbeat")
    stage.wait(29)
    assert worker.phase is Phase.SERVING
    stage.actions()
    stage.wait(1)
    actions = stage.actions()
    assert of_kind(actions, SendSignal) == [SendSignal(worker, signal.SIGUSR1)]
    assert len(of_kind(actions, Spawn)) == 1
    stage.say(worker, "dumped")
    assert stage.actions() == [SendSignal(worker, signal.SIGKILL)]
    stage.end(worker)
    assert stage.actions() == []


def test_silent_worker_that_cannot_dump_is_aborted_and_then_killed() -> None:
    stage = Stage(1)
    (worker,) = stage.started()
    stage.wait(32)
    signals = [action.signum for action in of_kind(stage.actions(), SendSignal) if action.worker is worker]
    assert signals == [signal.SIGUSR1, signal.SIGABRT, signal.SIGKILL]


def test_silent_worker_whose_loop_turns_again_may_end_what_it_has() -> None:
    stage = Stage(1)
    (worker,) = stage.started()
    stage.wait(30)
    stage.actions()
    stage.say(worker, "heartbeat")
    assert stage.actions() == [AskToDrain(worker, 25.0, leave_backlog=True)]


def test_worker_is_not_silent_while_nobody_runs_and_later_is() -> None:
    stage = Stage(2)
    serving, starting = stage.spawned()
    stage.say(serving, "ready")
    stage.wait(11)
    stage.actions()
    stage.say(serving, "heartbeat")
    stage.wait(1)
    stage.now += 1000
    stage.roster.stood_still(1000)
    stage.wait(28)
    assert stage.actions() == []
    stage.wait(1)
    assert SendSignal(serving, signal.SIGUSR1) in stage.actions()
    stage.wait(258)
    assert starting.phase is Phase.STARTING
    stage.wait(1)
    assert starting.phase is Phase.SILENT


def test_timeout_of_zero_never_finds_a_worker_silent() -> None:
    stage = Stage(1, timeout=0)
    stage.started()
    stage.actions()
    stage.wait(100_000)
    assert stage.actions() == []


def test_start_may_take_ten_times_the_timeout() -> None:
    stage = Stage(1, timeout=3.0)
    (worker,) = stage.spawned()
    stage.wait(29)
    assert not of_kind(stage.actions(), SendSignal)
    stage.wait(1)
    actions = stage.actions()
    assert SendSignal(worker, signal.SIGUSR1) in actions
    assert any("has not become ready for 30 s" in action.text for action in of_kind(actions, Log))


@pytest.mark.parametrize("timeout", [0, 30.0], ids=["without a limit", "with a limit"])
def test_slow_start_is_told_of_once_and_may_go_on(timeout: float) -> None:
    stage = Stage(1, timeout=timeout)
    (worker,) = stage.spawned()
    stage.wait(9)
    assert stage.actions() == []
    stage.wait(1)
    (told,) = stage.actions()
    assert isinstance(told, Log)
    assert "worker 1 has not become ready for 10 s" in told.text
    stage.wait(100)
    assert stage.actions() == []
    stage.say(worker, "ready")
    assert stage.actions() == [Settled()]


def test_stop_closes_the_sockets_first_and_finishes_when_all_have_left() -> None:
    stage = Stage(2)
    first, second = stage.started()
    stage.actions()
    stage.roster.stop(25.0, stage.now)
    assert stage.actions() == [
        StopListening(),
        AskToDrain(first, 25.0, leave_backlog=False),
        AskToDrain(second, 25.0, leave_backlog=False),
    ]
    stage.end(first, 0)
    stage.end(second, -9)
    actions = stage.actions()
    assert not of_kind(actions, Spawn)
    assert actions[-1] == Finish("")


def test_stop_that_is_told_again_hastens_and_never_delays() -> None:
    stage = Stage(1)
    (worker,) = stage.started()
    stage.actions()
    stage.roster.stop(25.0, stage.now)
    stage.actions()
    stage.wait(10)
    stage.roster.stop(25.0, stage.now)
    assert stage.actions() == []
    stage.roster.stop(1.0, stage.now)
    assert stage.actions() == [AskToDrain(worker, 1.0, leave_backlog=False)]
    stage.wait(6)
    assert SendSignal(worker, signal.SIGKILL) in stage.actions()


def test_stop_after_a_delay_waits_for_that_as_well_and_one_in_a_hurry_ends_it() -> None:
    stage = Stage(1)
    (worker,) = stage.started()
    stage.actions()
    stage.roster.stop(1.0, stage.now, drain_delay=20.0)
    assert stage.actions() == [
        StopListening(serve_on=True),
        AskToDrain(worker, 1.0, leave_backlog=False, serve_on=True),
    ]
    stage.wait(15)
    assert stage.actions() == []
    stage.roster.stop(1.0, stage.now)
    assert stage.actions() == [StopListening(), AskToDrain(worker, 1.0, leave_backlog=False)]
    stage.wait(6)
    assert SendSignal(worker, signal.SIGKILL) in stage.actions()


def test_stop_after_a_delay_closes_the_rest_of_the_sockets_when_that_has_passed() -> None:
    stage = Stage(1)
    (worker,) = stage.started()
    stage.roster.stop(25.0, stage.now, drain_delay=20.0)
    stage.actions()
    stage.wait(19)
    assert stage.actions() == []
    stage.wait(1)
    assert stage.actions() == [StopListening()]
    stage.roster.stop(1.0, stage.now)
    assert stage.actions() == [AskToDrain(worker, 1.0, leave_backlog=False)]
    stage.end(worker, 0)
    assert stage.actions() == [Finish("")]


def test_worker_that_does_not_leave_is_killed() -> None:
    stage = Stage(1)
    (worker,) = stage.started()
    stage.actions()
    stage.roster.stop(25.0, stage.now)
    stage.wait(29)
    assert not of_kind(stage.actions(), SendSignal)
    stage.wait(1)
    assert SendSignal(worker, signal.SIGKILL) in stage.actions()


def test_worker_that_has_said_that_it_stopped_has_little_time_to_be_gone() -> None:
    stage = Stage(1, graceful_timeout=1000.0)
    (worker,) = stage.started()
    stage.roster.stop(1000.0, stage.now)
    stage.actions()
    stage.say(worker, "stopped")
    stage.wait(5)
    assert SendSignal(worker, signal.SIGKILL) in stage.actions()


def test_quick_stop_during_a_start_ends_the_starting_workers() -> None:
    stage = Stage(2)
    first, second = stage.spawned()
    stage.roster.stop(1.0, stage.now)
    actions = stage.actions()
    assert SendSignal(first, signal.SIGTERM) in actions
    stage.end(first, -15)
    stage.end(second, -15)
    assert stage.actions() == [Finish("")]


def test_message_of_a_worker_that_is_gone_is_ignored() -> None:
    stage = Stage(1)
    (worker,) = stage.started()
    stage.end(worker)
    stage.actions()
    stage.say(worker, "ready")
    assert stage.actions() == []


@pytest.mark.parametrize("message", [{}, {"type": None}, {"type": "unheard of"}, {"type": "ready"}])
def test_strange_message_of_a_serving_worker_changes_nothing(message: dict[str, Any]) -> None:
    stage = Stage(1)
    (worker,) = stage.started()
    stage.actions()
    stage.roster.message(worker.number, message, stage.now)
    assert stage.actions() == []
    assert worker.phase is Phase.SERVING
