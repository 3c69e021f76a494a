"""One worker and a short line before it: how many requests are in the house, and for how long."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

from soho.serving.limits import Refusal

Result = TypeVar("Result")
# Weight of the newest duration in the running mean.
NEWEST = 0.2


class Desk:
    """Runs jobs one after the other in a thread of its own, and lets in only so many requests.

    One thread, because a model uses all cores by itself, and SQLite's connection of an index belongs to the thread that
    opened it.

    Args:
        name: of the thread.
        places: requests that may be in the house at a time, the one that is computed included.

    Attributes:
        taken: requests in the house.
    """

    def __init__(self, name: str, places: int) -> None:
        self.places, self.taken = places, 0
        self.seconds = 1.0  # running mean of a job, a guess at first
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place while a request is in the house; for the event loop's thread alone.

        Raises:
            Refusal: 503, all places are taken.
        """
        if self.taken >= self.places:
            wait = max(1, math.ceil(self.taken * self.seconds))
            raise Refusal(
                503, f"the server is busy with {self.taken} requests; ask again in {wait} s", retry_after=wait
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    async def run(self, job: Callable[[], Result], counts: bool = True) -> tuple[Result, float]:
        """Run a job when its turn comes.

        Args:
            job: what to do.
            counts: whether its duration says something of the next one's.

        Returns:
            Its result and the seconds that it took itself.
        """

        def timed() -> tuple[Result, float]:
            begin = perf_counter()
            return job(), perf_counter() - begin

        result, seconds = await asyncio.get_running_loop().run_in_executor(self._worker, timed)
        if counts:
            self.seconds += NEWEST * (seconds - self.seconds)
        return result, seconds

    def wait_for(self, job: Callable[[], Result]) -> Result:
        """Run a job from a thread without an event loop."""
        return self._worker.submit(job).result()

    def close(self) -> None:
        """Start nothing more; the job that runs comes to its end."""
        self._worker.shutdown(wait=True, cancel_futures=True)
