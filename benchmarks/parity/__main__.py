"""``python -m benchmarks.parity FOLDER``: compare gluonseg's networks with what ``theirs.py`` wrote there.

Prints a table; ends with 1 when an output differs by more than ``TOLERANCE`` of its largest value.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import gluonseg.compat  # noqa: F401  (before mxnet)
from gluonseg.models.network import build_network, set_parameters
from gluonseg.models.registry import find_encoder, load_object

CLASSES = 5
TOLERANCE = 1e-4
CASES: Mapping[str, str] = {
    "smp-unet-resnet18": "unet resnet-18",
    "smp-unet-vgg16_bn": "unet vgg-16",
    "smp-unet-mobilenet_v2": "unet mobilenet-v2",
    "torchvision-resnet18": "resnet-18",
    "torchvision-mobilenet_v2": "mobilenet-v2",
    "torchvision-vgg16_bn": "vgg-16",
    "timm-resnet50s": "resnet-50",
    "timm-hrnet_w18": "hrnet-w18",
    "timm-hrnet_w48": "hrnet-w48",
}
"""Name in ``theirs.py`` -> network and encoder, or encoder alone."""
Run = Callable[[Any], list[Any]]


def build(title: str) -> tuple[dict[str, Any], Run]:
    """Parameters by name, in the order of the layers, and what gives the outputs that are compared."""
    import mxnet as mx

    *algorithm, backbone = title.split()
    if algorithm:
        network = build_network(algorithm[0], backbone, CLASSES)
        network.initialize(force_reinit=True)
        run: Run = lambda photos: [network.predict(photos)]  # noqa: E731
        parts = tuple(network._children)
    else:
        network = load_object(find_encoder(backbone).build)(backbone, 32)
        network.initialize()
        run, parts = lambda photos: network(photos)[1:], network.parts
    run(mx.nd.zeros((1, 3, 64, 64)))  # works the shapes out
    parameters = network._collect_params_with_prefix()
    return {name: one for name, one in parameters.items() if name.partition(".")[0] in parts}, run


def compare(case: Mapping[str, Any], title: str) -> Iterator[float]:
    """Of each output the largest difference, in parts of its largest value."""
    import mxnet as mx

    parameters, run = build(title)
    values = [mx.nd.array(case[key]) for key in sorted(case) if key.startswith("value.")]
    set_parameters(parameters, dict(zip(parameters, values, strict=True)), mx.cpu())
    for number in range(sum(key.startswith("photos.") for key in case)):
        outputs = [one.asnumpy() for one in run(mx.nd.array(case[f"photos.{number}"]))]
        expected = [case[key] for key in case if key.startswith(f"output.{number}.")]
        for found, one in zip(outputs, expected, strict=True):
            if found.shape != one.shape:
                raise ValueError(f"{title}: the output has the shape {found.shape}, not {one.shape}")
            yield float(np.abs(found - one).max() / np.abs(one).max())


def main(folder: Path) -> int:
    """0 when all agree, else 1."""
    sys.stdout.write("| theirs | gluonseg | outputs | largest difference |\n|---|---|---|---|\n")
    worst = 0.0
    for name, title in CASES.items():
        with np.load(folder / f"{name}.npz") as file:
            differences = list(compare(dict(file), title))
        sys.stdout.write(f"| {name} | {title} | {len(differences)} | {max(differences):.1e} |\n")
        sys.stdout.flush()
        worst = max(worst, *differences)
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
