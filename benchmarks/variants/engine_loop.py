"""``python -m benchmarks.variants.engine_loop MODEL PHOTO COUNT``: the predictor alone, one photo after the other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

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

    def run() -> None:
        for _ in range(int(count)):
            predictor.predict_mask(image)

    serve_rounds(run)


if __name__ == "__main__":
    main(sys.argv[1:])
