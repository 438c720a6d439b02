"""Public ImageNet weights of the backbones, from torchvision's and timm's names to GluonCV's.

GluonCV's resnet18_v1b and resnet34_v1b are the networks resnet18 and resnet34 of torchvision. Its resnet50_v1s, 101 and
152, whose stem is three 3x3 convolutions of 64, 64 and 128 channels, are resnet50s, 101 and 152 of timm. Only the names
of BatchNorm's scale and shift differ. Weights are read from safetensors files; a pickle is never opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import gluonseg.compat  # noqa: F401  (before mxnet, wherever that is imported)
from gluonseg.errors import ModelError
from gluonseg.models.params import check_finite
from gluonseg.models.registry import find_encoder
from gluonseg.text import join_names

FloatArray = npt.NDArray[np.float32]

_TORCH_NAMES: Mapping[str, str] = {"gamma": "weight", "beta": "bias"}
_FLOATS = ("F16", "F32", "F64")


def build_backbone(backbone: str) -> Any:
    """Build GluonCV's own classifier (1000 classes, not dilated); its shapes are known, its values are not set."""
    import mxnet as mx
    from gluoncv.model_zoo import get_model

    net = get_model(find_encoder(backbone).gluoncv, pretrained=False)
    net.infer_shape(mx.nd.zeros((1, 3, 64, 64)))
    return net


def compute_backbone_shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by structural name (``layer1.0.bn1.gamma``), ``fc.*`` included."""
    parameters = build_backbone(backbone)._collect_params_with_prefix()
    return {name: tuple(parameter.shape) for name, parameter in parameters.items()}


def compute_torch_name(name: str) -> str:
    """``layer1.0.bn1.gamma`` -> ``layer1.0.bn1.weight``: GluonCV's structural name in torchvision and timm."""
    layer, _, leaf = name.rpartition(".")
    return f"{layer}.{_TORCH_NAMES.get(leaf, leaf)}"


def describe_mismatch(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str | None:
    """Say which tensors are missing, not expected or of the wrong shape; None when all agree."""
    both = [name for name in expected if name in found]
    problems = {
        "missing": [name for name in expected if name not in found],
        "not expected": [name for name in found if name not in expected],
        "wrong shape": [f"{n} is {found[n]}, not {expected[n]}" for n in both if found[n] != expected[n]],
    }
    return "; ".join(f"{title}: {join_names(names, limit=3)}" for title, names in problems.items() if names) or None


def _read_tensors(handle: Any, source: Path, backbone: str) -> dict[str, FloatArray]:
    slices = {name: handle.get_slice(name) for name in handle.keys() if not name.endswith(".num_batches_tracked")}  # noqa: SIM118
    shapes = compute_backbone_shapes(backbone)
    torch_names = {compute_torch_name(name): name for name in shapes}
    found = {name: tuple(part.get_shape()) for name, part in slices.items()}
    mismatch = describe_mismatch({torch: shapes[name] for torch, name in torch_names.items()}, found)
    if mismatch:
        raise ModelError(
            f"{source} does not hold the weights of {backbone}: {mismatch}. "
            f"The network that fits is {find_encoder(backbone).public} on the Hugging Face hub."
        )
    odd = [f"{name} ({part.get_dtype()})" for name, part in slices.items() if part.get_dtype() not in _FLOATS]
    if odd:
        raise ModelError(f"{source} must hold 16, 32 or 64 bit floats, not {join_names(odd, 3)}. Save it as float32.")
    return {torch_names[name]: handle.get_tensor(name).astype(np.float32) for name in slices}


def convert_backbone(source: Path, backbone: str) -> dict[str, FloatArray]:
    """Read torchvision's resnet18/34 or timm's resnet50s/101s/152s from ``source``, a safetensors file.

    Returns float32 arrays under GluonCV's structural names, ``fc.*`` included; a ``.params`` file of them loads into
    GluonCV's class. Every tensor of the file is used, except BatchNorm's ``num_batches_tracked``. Raises ModelError
    when the file is no safetensors file, or when a tensor is missing, left over, of another shape or not finite.
    """
    public = find_encoder(backbone).public
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(source), framework="np") as handle:
            arrays = _read_tensors(handle, source, backbone)
    except OSError as error:
        raise ModelError(f"{source} cannot be read: {error}. Give the path of a .safetensors file.") from error
    except SafetensorError as error:
        raise ModelError(
            f"{source} is not a whole safetensors file: {error}. Take model.safetensors of {public} on the Hugging "
            "Face hub. A PyTorch pickle (.pth, .pt, .bin) is not opened here, because that runs code from it; where "
            "PyTorch is installed, safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'x.safetensors') "
            "makes a safetensors file of it"
        ) from error
    check_finite(arrays, source)
    return arrays
