"""The queue that a coroutine waits for outputs in."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any


class AsyncOutputQueue:
    """``messages.OutputQueue`` for a caller in a running event loop of asyncio."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._outputs: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, output: Any) -> None:
        """Called in the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._outputs.put_nowait, output)

    async def get(self) -> Any:
        """The next output."""
        return await self._outputs.get()
