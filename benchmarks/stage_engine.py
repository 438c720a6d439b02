"""Our prediction engine beside GluonCV's ``predict`` as its demos use it.

``python -m benchmarks.stage_engine ENGINE MODEL PHOTO COUNT MASK`` is one side: the photo, COUNT times a round. ENGINE
is a name of :data:`LOADERS`; the mask is kept in the file MASK.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.inputs import prepare_photo
from benchmarks.model import prepare_model
from benchmarks.row import AT_MOST, ResultRow, build_ratio_row
from benchmarks.variant import Variant, compare, pick, serve_rounds
from gluonseg.machine.limits import count_usable_cores, set_thread_count
from gluonseg.models.folder.artifact import read_folder
from gluonseg.models.folder.manifest import FLOAT32, INT8

UInt8Array = npt.NDArray[np.uint8]
Predict = Callable[[UInt8Array], UInt8Array]
_PEER = "GluonCV predict"


def start_engine(
    engine: str, model: Path, photo: Path, mask: Path, threads: int | None = None, count: int = 1
) -> Variant:
    """One side; without ``threads`` the engine takes as many as it does by default."""
    arguments = map(str, (engine, model, photo, count, mask))
    return Variant("benchmarks.stage_engine", *arguments, threads=threads)


def measure(scratch: Path) -> list[ResultRow]:
    """FCN resnet-50, 21 classes, one photo of 480x480 at a time: the size that GluonCV's networks are trained at."""
    model, photo = prepare_model(scratch, "fcn", "resnet-50"), prepare_photo(scratch, (480, 480))
    cores = count_usable_cores()
    masks = {engine: scratch / f"mask-{engine}.npy" for engine in LOADERS}

    def start(engine: str, threads: int | None) -> Variant:
        return start_engine(engine, model, photo, masks[engine], threads)

    series = compare(
        {
            "gluoncv by default": start("gluoncv", None),
            "ours by default": start("ours", None),
            "gluoncv": start("gluoncv", cores),
            "ours": start("ours", cores),
        }
    )
    ours, theirs = np.load(masks["ours"]), np.load(masks["gluoncv"])
    share, note = 100 * float((ours == theirs).mean()), f"of {len(np.unique(theirs))} classes in their mask"
    name, unit = f"prediction, {cores} threads", "photos/s"
    untold = pick(series, "rate", "ours by default", "gluoncv by default")
    memory = pick(series, "peak_mb", "ours", "gluoncv")
    return [
        build_ratio_row("prediction, out of the box", _PEER, unit, *untold, 1.7),
        build_ratio_row(name, _PEER, unit, *pick(series, "rate", "ours", "gluoncv"), 1.12),
        ResultRow("prediction, same class", _PEER, "% of pixels", share, None, share, 99.99, note=note),
        build_ratio_row("memory of prediction", _PEER, "MB", *memory, sense=AT_MOST),
    ]


def _load_ours(model: Path, precision: str = FLOAT32) -> Predict:
    set_thread_count()
    from gluonseg.predict.predictor import load_predictor

    return load_predictor(model, precision=precision).predict_mask


def _load_gluoncv(model: Path) -> Predict:
    """GluonCV's own class as its demos use it: transform, predict, argmax; MXNet's default number of threads."""
    import mxnet as mx
    from gluoncv.data.transforms.presets.segmentation import test_transform
    from gluoncv.model_zoo.fcn import FCN

    artifact = read_folder(model)
    backbone = artifact.card.backbone.replace("-", "")
    network: Any = FCN(artifact.card.num_classes, backbone=backbone, pretrained_base=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GluonCV has initialized its heads already
        network.initialize()
    for name, parameter in network._collect_params_with_prefix().items():
        parameter._load_init(artifact.params[name], mx.cpu(), cast_dtype=True, dtype_source="current")

    def predict(image: UInt8Array) -> UInt8Array:
        output = network.predict(test_transform(mx.nd.array(image), mx.cpu(0)))
        mask: UInt8Array = mx.nd.squeeze(mx.nd.argmax(output, 1)).asnumpy().astype(np.uint8)
        return mask

    return predict


LOADERS: Mapping[str, Callable[[Path], Predict]] = {
    "ours": _load_ours,
    "int8": lambda model: _load_ours(model, INT8),
    "gluoncv": _load_gluoncv,
}


def main(engine: str, model: str, photo: str, count: str, mask: str) -> None:
    """Load, warm up, serve rounds."""
    from gluonseg.data.decode import read_image

    image, predict = read_image(Path(photo)), LOADERS[engine](Path(model))
    np.save(mask, predict(image))

    def run() -> None:
        for _ in range(int(count)):
            predict(image)

    serve_rounds(run, count=int(count))


if __name__ == "__main__":
    main(*sys.argv[1:])
