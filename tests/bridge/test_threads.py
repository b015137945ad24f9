from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading

import pytest

from aiowsgi.bridge.log_writer import LogFile, LogWriter
from aiowsgi.bridge.threads import call_at_slow_end, thread_frames, thread_names_without_copies
from tests.hosting import PATIENCE
from tests.process.server_process import environment

# What a worker does that is a copy of its supervisor: whatever is left of the import, and threads of its own.
FORKED = f"""
import os, signal, threading
from concurrent.futures import ThreadPoolExecutor
from aiowsgi.bridge.threads import join_threads

def use_executor():
    executor = ThreadPoolExecutor(1)
    executor.submit(int).result()
    return executor

before = use_executor()
pid = os.fork()
if pid == 0:
    signal.alarm({PATIENCE:.0f})
    own = use_executor()
    going = threading.Event()
    threading.Thread(target=lambda: (going.wait(), print("done", flush=True))).start()
    threading.Thread(target=going.wait, daemon=True).start()
    threading.Timer(0.01, going.set).start()
    join_threads()
    os._exit(0)
print(os.waitpid(pid, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_threads_of_a_forked_process_are_joined_also_those_of_an_executor() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (["done", "0"], "")


# Garbage that the next allocations would have collected, and whose end takes the lock under which frames are gathered.
COLLECTING = """
import gc, threading
from aiowsgi.bridge.threads import thread_frames
going = threading.Event()
for _ in range(30):
    threading.Thread(target=going.wait, daemon=True).start()
gc.collect()
gc.disable()
class Holder:
    def __init__(self):
        self.own, self.local = self, threading.local()
        self.local.value = 1
for _ in range(1000):
    Holder()
gc.set_threshold(gc.get_count()[0] + 3)
gc.enable()
print(len(thread_frames()), gc.isenabled())
"""


def test_frames_of_threads_are_had_while_garbage_waits_to_be_collected() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COLLECTING], env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.stdout.split(), done.stderr) == (["31", "True"], "")


def test_frames_that_several_threads_ask_for_leave_the_collector_on() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda: [thread_frames() for _ in range(1000)], name="asking") for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert gc.isenabled()
    finally:
        sys.setswitchinterval(interval)
        gc.enable()


def test_frames_of_threads_leave_a_collector_off_that_was_off() -> None:
    gc.disable()
    try:
        assert threading.get_ident() in thread_frames()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_threads_that_a_copy_will_not_have_are_all_others_but_the_logs() -> None:
    reader, writer = os.pipe()
    log = LogWriter(LogFile(fd=writer))
    log.put(["line\n"], 5)
    going = threading.Event()
    thread = threading.Thread(target=going.wait, name="left-over")
    thread.start()
    names = thread_names_without_copies()
    going.set()
    thread.join()
    assert log.close(PATIENCE)
    os.close(reader)
    os.close(writer)
    assert "left-over" in names
    assert not {"aiowsgi-log", threading.current_thread().name} & set(names)


def test_end_where_no_thread_can_be_started_has_no_bound_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def start(thread: threading.Thread) -> None:
        attempts.append(thread.name)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    call_at_slow_end((0.0, pytest.fail))
    assert attempts == ["aiowsgi-end"]
