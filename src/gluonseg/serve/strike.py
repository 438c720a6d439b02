"""When processes that end and are started again have ended too often."""

from __future__ import annotations

import time
from collections import deque

STRIKES, STRIKE_WINDOW_S = 3, 60.0
"""So many ends within this time are too many: the platform is to replace the whole server."""


class Strikes:
    """Counts ends."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=STRIKES)

    def count(self) -> bool:
        """Count one; whether it was one too many."""
        now = time.monotonic()
        self._times.append(now)
        return len(self._times) == STRIKES and now - self._times[0] < STRIKE_WINDOW_S
