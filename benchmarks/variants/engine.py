"""One engine on one network: ``ours``, ``mxnet`` (our MXNet engine), ``gluoncv`` or ``openvino``.

Arguments: ENGINE MODEL HEIGHT WIDTH. A round is one photo to its mask; with ``--save FILE`` the mask is kept.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.training_batch import forget_empty_thread_count
from benchmarks.variant import serve_rounds
from gluonseg.cores import set_thread_count
from gluonseg.data.synthetic import draw_example
from gluonseg.data.transforms import resize_image
from gluonseg.models.artifact import read_folder

UInt8Array = npt.NDArray[np.uint8]
Predict = Callable[[UInt8Array], UInt8Array]


def _load_ours(model: Path) -> Predict:
    from gluonseg.predict.predictor import load_predictor

    return load_predictor(model).predict_mask


def _load_mxnet(model: Path) -> Predict:
    set_thread_count()
    import mxnet as mx

    from gluonseg.predict.predictor import load_predictor

    return load_predictor(model, mx.cpu()).predict_mask


def _load_gluoncv(model: Path) -> Predict:
    """GluonCV's own class as its demos use it: transform, predict, argmax; MXNet's default number of threads."""
    import mxnet as mx
    from gluoncv.data.transforms.presets.segmentation import test_transform
    from gluoncv.model_zoo.fcn import FCN

    artifact = read_folder(model)
    network: Any = FCN(
        artifact.card.num_classes, backbone=artifact.card.backbone.replace("-", ""), pretrained_base=False
    )
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


def _load_openvino(model: Path) -> Predict:
    import openvino

    from gluonseg.models.onnx_file import ONNX_FILE
    from gluonseg.predict.enlarge import compute_mask

    core = openvino.Core()
    network = core.read_model(model / ONNX_FILE)
    coarse = openvino.Model([network.output("logits")], network.get_parameters(), "coarse")
    # On some processors it would compute in bfloat16.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": set_thread_count()}
    request = core.compile_model(coarse, "CPU", settings).create_infer_request()

    def predict(image: UInt8Array) -> UInt8Array:
        return compute_mask(request.infer({0: image[None]})["logits"][0], *image.shape[:2])

    return predict


_LOADERS = {"ours": _load_ours, "mxnet": _load_mxnet, "gluoncv": _load_gluoncv, "openvino": _load_openvino}


def main() -> None:
    """Load, warm up, serve rounds."""
    forget_empty_thread_count()
    engine, model, height, width = sys.argv[1:5]
    image, _ = draw_example(np.random.default_rng(1), "disc", 480)
    image = np.ascontiguousarray(resize_image(image, int(height), int(width)))
    start = time.perf_counter()
    predict = _LOADERS[engine](Path(model))
    load_s = time.perf_counter() - start
    mask = predict(image)
    if "--save" in sys.argv:
        np.save(sys.argv[sys.argv.index("--save") + 1], mask)
    serve_rounds(lambda: {} if predict(image) is not None else None, {"load_s": load_s})


if __name__ == "__main__":
    main()
