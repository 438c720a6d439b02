"""Coverage-guided fuzzing of what reads bytes from outside: ``python -m tests.fuzz TARGET``."""

import sys
from pathlib import Path

# What the tests share lies one folder up; pytest has it on the path already.
_SHARED = str(Path(__file__).resolve().parents[1])
if _SHARED not in sys.path:
    sys.path.append(_SHARED)
