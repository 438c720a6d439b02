"""Made-up parameters of a whole backbone, for tests of weights that could be published ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gluonseg.models.convert import compute_backbone_shapes

Arrays = dict[str, npt.NDArray[Any]]


def draw_arrays(backbone: str) -> Arrays:
    """Draw every parameter: small enough for activations to stay finite, variances above 0; a ResNet's ``fc``, too."""
    random = np.random.default_rng(5)
    arrays = {}
    shapes = compute_backbone_shapes(backbone)
    if backbone.startswith("resnet-"):
        shapes |= {"fc.weight": (1000, shapes[next(reversed(shapes))][0]), "fc.bias": (1000,)}
    for name, shape in shapes.items():
        values = random.standard_normal(shape, dtype=np.float32)
        scale = np.float32(np.sqrt(2 / np.prod(shape[1:])))
        arrays[name] = values * scale if len(shape) > 1 else np.abs(values) + np.float32(0.2)
    return arrays
