"""What the kernel says of its disks reaches reconcile once a burst, and costs nothing while it waits to be read."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from omavol.block.uevent import Uevent
from omavol.daemon import watch


class Told:
    """In place of the kernel's socket, which takes a disk to be plugged in: readable while something was not taken."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK)
        self._waiting: list[Uevent] = []
        self.lost = False

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._event)

    def fileno(self) -> int:
        return self._event

    def tell(self, *names: str) -> None:
        self._waiting += [Uevent("add", name) for name in names]
        os.eventfd_write(self._event, 1)

    def take(self) -> list[Uevent] | None:
        os.eventfd_read(self._event)
        taken, self._waiting = self._waiting, []
        return None if self.lost else taken


class Reconcile:
    """Takes as long as it is told to; `calls` counts."""

    def __init__(self) -> None:
        self.calls = 0
        self.goes_on = asyncio.Event()
        self.begun = asyncio.Event()

    async def __call__(self) -> None:
        self.calls += 1
        self.begun.set()
        await self.goes_on.wait()


@pytest.fixture
def told(monkeypatch) -> Told:
    kernel = Told()
    monkeypatch.setattr(watch, "Uevents", lambda: kernel)
    return kernel


def hearing(told: Told, story) -> None:
    """Run the story beside the listener."""

    async def both() -> None:
        reconcile = Reconcile()
        listener = asyncio.create_task(watch.hear_devices(reconcile))
        try:
            async with asyncio.timeout(30):
                await story(reconcile)
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    asyncio.run(both())


def test_a_burst_is_one_call_and_what_comes_during_it_another(told):
    async def story(reconcile: Reconcile) -> None:
        told.tell("vdb", "vdc")
        told.tell("vdd")
        await reconcile.begun.wait()
        assert reconcile.calls == 1
        told.tell("vde")
        reconcile.begun.clear()
        reconcile.goes_on.set()
        await reconcile.begun.wait()
        assert reconcile.calls == 2

    hearing(told, story)


def test_our_own_nodes_are_no_news_and_lost_events_are(told):
    async def story(reconcile: Reconcile) -> None:
        reconcile.goes_on.set()
        told.tell("dm-3", "loop0")
        await asyncio.sleep(watch.BURST * 3)
        assert reconcile.calls == 0
        told.lost = True
        told.tell()
        await reconcile.begun.wait()

    hearing(told, story)


def test_what_waits_to_be_read_does_not_keep_the_loop_awake(told):
    """A listener that looks at an unread socket over and over took a whole processor while reconcile ran."""

    async def story(reconcile: Reconcile) -> None:
        told.tell("vdb")
        await reconcile.begun.wait()
        told.tell("vdc")
        before = time.thread_time()
        await asyncio.sleep(0.5)
        assert time.thread_time() - before < 0.1
        reconcile.goes_on.set()

    hearing(told, story)
