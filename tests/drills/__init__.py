"""Drills: long proofs of what the server promises, each with a table and a file of figures.

``python -m tests.drills.NAME --help`` in the repository's folder; the suite runs each for a moment.
"""

import sys
from pathlib import Path

# The helpers of the tests are modules beside this package, as pytest has them.
_TESTS = str(Path(__file__).parents[1])
if _TESTS not in sys.path:
    sys.path.insert(0, _TESTS)
