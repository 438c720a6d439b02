"""``python -m benchmarks.variants.engine_loop MODEL PHOTO COUNT``: the predictor alone, one photo after the other."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.variant import serve_rounds
from gluonseg.cores import set_thread_count


def main(arguments: Sequence[str]) -> None:
    """Be a variant."""
    model, photo, count = arguments
    set_thread_count()
    from gluonseg.data.decode import read_image
    from gluonseg.predict.predictor import load_predictor

    predictor, image = load_predictor(Path(model)), read_image(Path(photo))
    predictor.predict_mask(image)

    def run() -> dict[str, float]:
        found = []
        for _ in range(int(count)):
            start = time.perf_counter()
            predictor.predict_mask(image)
            found.append(time.perf_counter() - start)
        return {"p50": median(found), "max": max(found)}

    serve_rounds(run)


if __name__ == "__main__":
    main(sys.argv[1:])
