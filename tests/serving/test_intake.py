from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from clouds_deploy.serving.intake import Body, Intake
from clouds_deploy.serving.limits import Limits, Refusal

LIMITS = Limits(body_bytes=1000, waiting=2, stall_seconds=0.5)  # 8 bodies at once, 8000 bytes


class Sender:
    """Sends what the test gives it."""

    def __init__(self) -> None:
        self.parts: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue()
        self.body = Body()

    def send(self, size: int, last: bool = False) -> None:
        self.parts.put_nowait((bytes(size), last))


async def status(receiving: Coroutine[Any, Any, None]) -> int:
    try:
        await receiving
    except Refusal as refusal:
        return refusal.status
    return 200


def start(intake: Intake, sender: Sender, seconds: float = 9.0) -> asyncio.Task[int]:
    return asyncio.create_task(status(intake.receive(sender.parts.get, sender.body, seconds)))


def test_memory_is_taken_for_what_arrives() -> None:
    async def story() -> None:
        intake, one = Intake(LIMITS), Sender()
        task = start(intake, one)
        one.send(10)
        await asyncio.sleep(0.05)
        assert intake.free == 7990
        one.send(5, last=True)
        assert await task == 200
        assert (len(one.body.data), intake.free) == (15, 7985)
        intake.release(one.body)
        assert (intake.free, len(intake)) == (8000, 0)

    asyncio.run(story())


def test_a_stalled_body_is_given_up_and_a_slow_one_at_the_end() -> None:
    async def story() -> None:
        intake, stalled, slow = Intake(LIMITS), Sender(), Sender()
        tasks = [start(intake, stalled), start(intake, slow, 1.0)]
        for _ in range(14):
            slow.send(1)
            await asyncio.sleep(0.1)
        assert [await task for task in tasks] == [408, 408]
        for one in (stalled, slow):
            intake.release(one.body)
        assert intake.free == 8000

    asyncio.run(story())


def test_who_comes_when_all_places_are_taken_replaces_the_slowest() -> None:
    async def story() -> None:
        limits = Limits(body_bytes=1000, waiting=2, stall_seconds=30)
        intake, many = Intake(limits), [Sender() for _ in range(8)]
        tasks = [start(intake, one) for one in many]
        for i, one in enumerate(many):
            one.send(100 - i)
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in tasks)
        new = Sender()
        new.send(500, last=True)
        assert await start(intake, new) == 200
        assert await tasks[-1] == 408  # the one that had sent least
        assert not any(task.done() for task in tasks[:-1])
        intake.stop()
        assert [await task for task in tasks[:-1]] == [503] * 7
        for one in (*many, new):
            intake.release(one.body)
        assert intake.free == 8000

    asyncio.run(story())


def test_halves_that_fill_the_memory_do_not_block_each_other() -> None:
    """Ten bodies of 900 bytes, each begun, in memory of 8000: all become whole, and never more is held."""

    async def story() -> None:
        limits = Limits(body_bytes=1000, waiting=3, stall_seconds=30)
        intake, many = Intake(limits), [Sender() for _ in range(10)]
        least = [intake.free]

        async def one(sender: Sender) -> int:
            done = await status(intake.receive(sender.parts.get, sender.body, 20))
            least.append(intake.free)
            await asyncio.sleep(0.02)  # the work
            intake.release(sender.body)
            return done

        tasks = [asyncio.create_task(one(sender)) for sender in many]
        for sender in many:
            sender.send(800)
        await asyncio.sleep(0.05)
        for sender in many:
            sender.send(100, last=True)
        assert await asyncio.gather(*tasks) == [200] * 10
        assert min(least) >= 0
        assert intake.free == 8000

    asyncio.run(story())


def test_slow_halves_make_room_for_who_is_fast() -> None:
    async def story() -> None:
        limits = Limits(body_bytes=1000, waiting=4, stall_seconds=30)
        intake, slow = Intake(limits), [Sender() for _ in range(9)]
        tasks = [start(intake, one, 30) for one in slow]
        for one in slow:
            one.send(870)
        await asyncio.sleep(1.2)
        fast = Sender()
        fast.send(900, last=True)

        async def freed() -> None:
            for one, task in zip(slow, tasks, strict=True):
                await task
                intake.release(one.body)

        freeing = asyncio.create_task(freed())
        assert await asyncio.wait_for(start(intake, fast), 5) == 200
        freeing.cancel()
        intake.stop()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(story())


def test_a_fault_of_the_sender_is_passed_on() -> None:
    async def story() -> None:
        async def broken() -> tuple[bytes, bool]:
            raise Refusal(413, "too long", "shorter")

        intake = Intake(LIMITS)
        with pytest.raises(Refusal, match="too long"):
            await intake.receive(broken, Body(), 9)
        assert len(intake) == 0

    asyncio.run(story())
