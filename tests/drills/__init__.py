"""Long drills: real trainings and servers that are killed, stopped, overloaded and starved, as often as one likes.

``python -m tests.drills.NAME --help`` in the repository's folder. Each prints a table and writes
``build/drills/NAME.json``; the suite runs each with a small count.
"""

import sys
from pathlib import Path

# What the tests share lies one folder up; pytest has it on the path already.
_TESTS = str(Path(__file__).resolve().parents[1])
if _TESTS not in sys.path:
    sys.path.insert(0, _TESTS)
