"""Background loops of a service, and its heartbeat."""

import asyncio
from pathlib import Path

import pytest

from shared.health import check_heartbeat, keep_heartbeat
from shared.runtime.lifecycle import background_tasks


async def endless() -> None:
    await asyncio.Event().wait()


async def broken() -> None:
    raise RuntimeError("broke")


async def test_background_loops_end_with_their_block() -> None:
    stop = asyncio.Event()
    async with background_tasks(stop, one=endless(), other=endless()):
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert {"one", "other"} <= names
    assert not stop.is_set()
    assert not {"one", "other"} & {task.get_name() for task in asyncio.all_tasks()}


async def test_failed_loop_stops_the_service_and_is_raised() -> None:
    stop = asyncio.Event()
    with pytest.raises(RuntimeError, match="broke"):
        async with background_tasks(stop, one=endless(), other=broken()):
            await stop.wait()


async def test_running_loop_keeps_its_heartbeat_fresh(tmp_path: Path) -> None:
    file = tmp_path / "heartbeat"
    beating = asyncio.create_task(keep_heartbeat(file))
    await asyncio.sleep(0)
    touched_at = file.stat().st_mtime
    assert check_heartbeat(file, touched_at + 15) is None
    assert check_heartbeat(file, touched_at + 16) == "the last heartbeat is 16 s old"
    beating.cancel()
