"""The lock that is handed over."""

from __future__ import annotations

import threading

from pyvfio_user.fairlock import FairLock


def test_who_waits_goes_before_who_comes_back() -> None:
    for _ in range(100):
        lock = FairLock()
        order: list[str] = []

        def wait(lock: FairLock = lock, order: list[str] = order) -> None:
            with lock:
                order.append("waiter")

        thread = threading.Thread(target=wait)
        lock.acquire()
        thread.start()
        while not lock.has_waiter:
            pass
        lock.release()
        lock.acquire()
        order.append("back again")
        lock.release()
        thread.join()
        assert order == ["waiter", "back again"]


def test_it_is_reentrant() -> None:
    lock = FairLock()
    entered = threading.Event()

    def enter() -> None:
        with lock:
            entered.set()

    thread = threading.Thread(target=enter)
    with lock:
        with lock, lock:
            thread.start()
            while not lock.has_waiter:
                pass
        assert not entered.is_set()
    thread.join()
    assert entered.is_set()
