"""A process that was paused (SIGSTOP, ``docker pause``) must not take the others' silence meanwhile for a fault."""

from __future__ import annotations

import time

_GAP_S = 1.5
"""Who looks at least once a second, and finds so much time gone, has stood still."""


class Standstill:
    """Knows when this process last looked, and since when it has been running without a gap (both monotonic)."""

    def __init__(self) -> None:
        self.looked = self.went_on = time.monotonic()

    def look(self) -> bool:
        """To be called at least once a second; whether the process has stood still since the last call."""
        now = time.monotonic()
        has_stood_still = now - self.looked > _GAP_S
        if has_stood_still:
            self.went_on = now
        self.looked = now
        return has_stood_still
