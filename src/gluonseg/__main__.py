"""``python -m gluonseg``."""

import sys

from gluonseg.cli import main

sys.exit(main())
