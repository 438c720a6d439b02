"""Long drills: real trainings that are killed, stopped and starved of disk, as often as one likes.

``python -m tests.drills.NAME --count N`` runs one, prints a table and writes ``build/drills/NAME.json``; the suite runs
each with a small count.
"""

import sys
from pathlib import Path

TESTS = str(Path(__file__).resolve().parent.parent)
if TESTS not in sys.path:  # as pytest has it
    sys.path.insert(0, TESTS)
