"""``container/train`` with a checkpoint after each update; the rest of the process is as it is."""

from __future__ import annotations

import sys

from gluonseg.sagemaker.job import main
from gluonseg.train import checkpoint

if __name__ == "__main__":
    checkpoint.INTERVAL_S = 0
    sys.exit(main([]))
