from __future__ import annotations

import asyncio

from clouds_deploy.serving.budget import Budget


async def hold(budget: Budget, weight: int, name: str, log: list[str], leave: asyncio.Event) -> None:
    async with budget.take(weight):
        log.append(name)
        await leave.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_nobody_overtakes() -> None:
    async def story() -> list[str]:
        budget, log, leave = Budget(10), [], asyncio.Event()
        later = asyncio.Event()
        jobs = [asyncio.create_task(hold(budget, 6, "a", log, leave))]
        await settle()
        jobs.append(asyncio.create_task(hold(budget, 6, "big", log, later)))
        jobs.append(asyncio.create_task(hold(budget, 1, "small", log, later)))
        await settle()
        assert log == ["a"]
        leave.set()
        await settle()
        assert log == ["a", "big", "small"]
        assert budget.free == 3
        later.set()
        await asyncio.gather(*jobs)
        assert budget.free == 10
        return log

    asyncio.run(story())


def test_who_gives_up_leaves_the_line() -> None:
    async def story() -> None:
        budget, log, leave = Budget(10), [], asyncio.Event()
        first = asyncio.create_task(hold(budget, 8, "a", log, leave))
        await settle()
        gone = asyncio.create_task(hold(budget, 9, "gone", log, leave))
        small = asyncio.create_task(hold(budget, 2, "small", log, leave))
        await settle()
        assert log == ["a"]
        gone.cancel()
        await settle()
        assert log == ["a", "small"]
        late = asyncio.create_task(hold(budget, 10, "late", log, leave))
        await settle()
        leave.set()
        await settle()
        assert "late" in log
        await asyncio.gather(first, small, late)
        assert budget.free == 10

    asyncio.run(story())


def test_granted_and_cancelled_at_once() -> None:
    async def story() -> None:
        budget, log, leave = Budget(4), [], asyncio.Event()
        first = asyncio.create_task(hold(budget, 4, "a", log, leave))
        await settle()
        second = asyncio.create_task(hold(budget, 4, "b", log, leave))
        await settle()
        leave.set()
        for _ in range(100):
            if budget._line:  # until it is granted, but not yet awake
                await asyncio.sleep(0)
        assert not budget._line
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert budget.free == 4

    asyncio.run(story())


def test_more_than_everything_is_everything() -> None:
    async def story() -> None:
        budget = Budget(4)
        async with budget.take(100):
            assert budget.free == 0
        assert budget.free == 4

    asyncio.run(story())
