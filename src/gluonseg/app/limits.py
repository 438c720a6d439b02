"""How often one client may ask."""

from __future__ import annotations

import threading
import time
from collections import Counter

from gluonseg.errors import TooManyRequestsError


class RateLimit:
    """Counts each address's requests in the present minute; ``per_minute`` 0 is no limit."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._lock = threading.Lock()
        self._minute = 0
        self._counts: Counter[str] = Counter()

    def check(self, address: str) -> None:
        """Count a request; raises TooManyRequestsError when it is one too many."""
        minute = int(time.monotonic() // 60)
        with self._lock:
            if minute != self._minute:
                self._minute, self._counts = minute, Counter()
            self._counts[address] += 1
            is_over = self._counts[address] > self._per_minute > 0
        if is_over:
            raise TooManyRequestsError(f"more than {self._per_minute} photos in a minute: wait a little")
