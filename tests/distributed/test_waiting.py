"""Ranks wait for each other's long work as long as any of them reports work."""

import threading
import time

import pytest
from torch.distributed import HashStore

from scalevit.distributed.watchdog import Watchdog, exit_status


def pair(timeout):
    store = HashStore()
    return [Watchdog(store, rank, 2, timeout) for rank in range(2)]


def beat(dogs, done):
    while not done.wait(0.05):
        for dog in dogs:
            dog._count += 1
            dog.store.set(f"heartbeat/{dog.rank}", f"0 0 {dog._count} {dog._work}")


@pytest.fixture
def dogs():
    dogs, done = pair(0.6), threading.Event()
    thread = threading.Thread(target=beat, args=(dogs, done))
    thread.start()
    yield dogs
    done.set()
    thread.join()


def test_work_that_outlasts_the_timeout_is_waited_for(dogs):
    def long():
        for _ in range(12):
            time.sleep(0.1)
            dogs[0].report_work()
        return "main"

    results = []
    threads = [
        threading.Thread(target=lambda: results.append(dogs[0].wait_for(long))),
        threading.Thread(target=lambda: results.append(dogs[1].wait_for(lambda: "other"))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["main", "other"]


def test_nobody_waits_for_a_rank_that_makes_no_progress(dogs):
    with pytest.raises(TimeoutError, match="rank 0 makes no progress at step 0, starting") as error:
        dogs[1].wait_for(lambda: None)
    assert exit_status(error.value) == 3


def test_exit_status_of_errors():
    from scalevit.artifacts.remote import StoreUnavailable

    assert [exit_status(e) for e in (ValueError(), StoreUnavailable("x"), KeyError())] == [2, 3, 1]
