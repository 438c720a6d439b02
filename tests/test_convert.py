"""Converted weights against a forward pass written in plain numpy from the torch names.

The tensors are made here: names and shapes follow torchvision's resnet18/34 and timm's resnet50s/101s/152s.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

import gluonseg.compat  # noqa: F401
from gluonseg.errors import ModelError
from gluonseg.models.convert import compute_backbone_shapes, compute_torch_name, convert_backbone
from gluonseg.models.params import write_params
from gluonseg.models.registry import find_encoder

Tensor = npt.NDArray[Any]
Tensors = dict[str, Tensor]
BLOCKS = {
    "resnet-18": (2, 2, 2, 2),
    "resnet-34": (3, 4, 6, 3),
    "resnet-50": (3, 4, 6, 3),
    "resnet-101": (3, 4, 23, 3),
    "resnet-152": (3, 8, 36, 3),
}
BN_EPS = 1e-5


# The state dict, from the published descriptions of both libraries.


def bn_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def stem_shapes(deep: bool) -> dict[str, tuple[int, ...]]:
    if not deep:
        return {"conv1.weight": (64, 3, 7, 7), **bn_shapes("bn1", 64)}
    return {
        "conv1.0.weight": (64, 3, 3, 3),
        **bn_shapes("conv1.1", 64),
        "conv1.3.weight": (64, 64, 3, 3),
        **bn_shapes("conv1.4", 64),
        "conv1.6.weight": (128, 64, 3, 3),
        **bn_shapes("bn1", 128),
    }


def block_shapes(name: str, inputs: int, planes: int, deep: bool) -> dict[str, tuple[int, ...]]:
    outputs = planes * 4 if deep else planes
    kernels = [(planes, inputs, 1), (planes, planes, 3), (outputs, planes, 1)]
    if not deep:
        kernels = [(planes, inputs, 3), (planes, planes, 3)]
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (channels, previous, size) in enumerate(kernels, start=1):
        shapes[f"{name}.conv{number}.weight"] = (channels, previous, size, size)
        shapes |= bn_shapes(f"{name}.bn{number}", channels)
    if name.endswith(".0") and (planes != 64 or inputs != outputs):
        shapes |= {f"{name}.downsample.0.weight": (outputs, inputs, 1, 1), **bn_shapes(f"{name}.downsample.1", outputs)}
    return shapes


def torch_shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    deep = backbone not in ("resnet-18", "resnet-34")
    shapes = stem_shapes(deep)
    inputs = 128 if deep else 64
    for layer, count in enumerate(BLOCKS[backbone], start=1):
        planes = 32 * 2**layer
        for index in range(count):
            shapes |= block_shapes(f"layer{layer}.{index}", inputs, planes, deep)
            inputs = planes * 4 if deep else planes
    return shapes | {"fc.weight": (1000, inputs), "fc.bias": (1000,)}


def make_tensor(name: str, shape: tuple[int, ...], random: np.random.Generator) -> Tensor:
    values = random.standard_normal(shape, dtype=np.float32)
    if len(shape) > 1:
        scaled: Tensor = values * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        return scaled
    # BatchNorm's numbers are all far from their defaults: a swapped pair must show.
    result: Tensor = np.abs(values) + np.float32(0.5) if name.endswith("running_var") else values * np.float32(0.5)
    return result


def make_tensors(backbone: str) -> dict[str, npt.NDArray[Any]]:
    random = np.random.default_rng(7)
    shapes = torch_shapes(backbone)
    counters = {name.replace("running_var", "num_batches_tracked"): np.array(9) for name in shapes if "_var" in name}
    return {name: make_tensor(name, shape, random) for name, shape in shapes.items()} | counters


# The forward pass in eval mode.


def conv(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    size = weight.shape[-1]
    pad = size // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]
    result: Tensor = np.einsum("ncyxij,ocij->noyx", windows, weight, optimize=True)
    return result


def norm(x: Tensor, tensors: Tensors, name: str) -> Tensor:
    weight, bias, mean, var = (tensors[f"{name}.{leaf}"] for leaf in ("weight", "bias", "running_mean", "running_var"))
    scale = weight / np.sqrt(var + BN_EPS)
    result: Tensor = x * scale[:, None, None] + (bias - mean * scale)[:, None, None]
    return result


def relu(x: Tensor) -> Tensor:
    result: Tensor = np.maximum(x, 0)
    return result


def max_pool(x: Tensor) -> Tensor:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    result: Tensor = windows.max(axis=(4, 5))
    return result


def run_stem(x: Tensor, tensors: Tensors) -> Tensor:
    if "conv1.weight" in tensors:
        x = conv(x, tensors["conv1.weight"], 2)
    else:
        x = relu(norm(conv(x, tensors["conv1.0.weight"], 2), tensors, "conv1.1"))
        x = relu(norm(conv(x, tensors["conv1.3.weight"], 1), tensors, "conv1.4"))
        x = conv(x, tensors["conv1.6.weight"], 1)
    return max_pool(relu(norm(x, tensors, "bn1")))


def run_block(x: Tensor, tensors: Tensors, name: str, stride: int) -> Tensor:
    shortcut = x
    if f"{name}.downsample.0.weight" in tensors:
        shortcut = norm(conv(x, tensors[f"{name}.downsample.0.weight"], stride), tensors, f"{name}.downsample.1")
    count = 3 if f"{name}.conv3.weight" in tensors else 2
    strided = 2 if count == 3 else 1  # the stride is the first 3x3 convolution's
    for number in range(1, count + 1):
        x = conv(x, tensors[f"{name}.conv{number}.weight"], stride if number == strided else 1)
        x = norm(x, tensors, f"{name}.bn{number}")
        x = relu(x) if number < count else x
    return relu(x + shortcut)


def run_numpy(x: Tensor, tensors: Tensors, backbone: str) -> Tensor:
    x = run_stem(x, tensors)
    for layer, count in enumerate(BLOCKS[backbone], start=1):
        for index in range(count):
            x = run_block(x, tensors, f"layer{layer}.{index}", 2 if layer > 1 and index == 0 else 1)
    logits: Tensor = x.mean(axis=(2, 3)) @ tensors["fc.weight"].T + tensors["fc.bias"]
    return logits


# Tests


@pytest.mark.parametrize("backbone", BLOCKS)
def test_names_and_shapes_are_those_of_the_torch_networks(backbone: str) -> None:
    shapes = compute_backbone_shapes(backbone)
    assert {compute_torch_name(name): shape for name, shape in shapes.items()} == torch_shapes(backbone)


@pytest.mark.parametrize("backbone", ["resnet-18", "resnet-50"])
def test_gluoncv_computes_what_numpy_computes(tmp_path: Path, backbone: str) -> None:
    import mxnet as mx
    from gluoncv.model_zoo import get_model

    tensors = make_tensors(backbone)
    save_file(tensors, str(tmp_path / "x.safetensors"))
    write_params(convert_backbone(tmp_path / "x.safetensors", backbone), tmp_path / "x.params")
    net = get_model(find_encoder(backbone).gluoncv, pretrained=False)
    net.load_parameters(str(tmp_path / "x.params"))
    image = np.random.default_rng(3).standard_normal((1, 3, 33, 33), dtype=np.float32)
    expected = run_numpy(image, tensors, backbone)
    actual = net(mx.nd.from_numpy(image, zero_copy=False)).asnumpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(actual / expected.std(), expected / expected.std(), atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def resnet18() -> dict[str, npt.NDArray[Any]]:
    return make_tensors("resnet-18")


Change = Callable[[dict[str, npt.NDArray[Any]]], Any]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.pop("layer3.1.bn2.running_mean"), r"missing: layer3\.1\.bn2\.running_mean"),
        (lambda t: t.update({"layer5.0.conv1.weight": np.zeros(1)}), r"not expected: layer5\.0\.conv1\.weight"),
        (
            lambda t: t.update({"conv1.weight": np.zeros((64, 1, 7, 7))}),
            r"wrong shape: conv1\.weight is \(64, 1, 7, 7\), not \(64, 3, 7, 7\)",
        ),
        (lambda t: t.update({"bn1.bias": np.zeros(64, np.int32)}), r"bn1\.bias \(I32\)"),
        (lambda t: t.update({"bn1.bias": np.full(64, np.nan, np.float32)}), r"not finite in bn1\.beta"),
    ],
    ids=["missing", "extra", "shape", "integers", "nan"],
)
def test_wrong_tensor_is_named(
    tmp_path: Path, resnet18: dict[str, npt.NDArray[Any]], change: Change, match: str
) -> None:
    tensors = dict(resnet18)
    change(tensors)
    save_file(tensors, str(tmp_path / "x.safetensors"))
    with pytest.raises(ModelError, match=match):
        convert_backbone(tmp_path / "x.safetensors", "resnet-18")


def test_half_precision_becomes_float32(tmp_path: Path, resnet18: dict[str, npt.NDArray[Any]]) -> None:
    halves = {name: array.astype(np.float16) if array.ndim else array for name, array in resnet18.items()}
    save_file(halves, str(tmp_path / "x.safetensors"))
    arrays = convert_backbone(tmp_path / "x.safetensors", "resnet-18")
    assert {array.dtype.name for array in arrays.values()} == {"float32"}
    np.testing.assert_array_equal(arrays["bn1.gamma"], halves["bn1.weight"].astype(np.float32))


def test_bfloat16_is_refused_by_name(tmp_path: Path) -> None:
    shapes = torch_shapes("resnet-18")
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    with pytest.raises(ModelError, match=r"32 or 64 bit floats, not bn1\.bias \(BF16\)"):
        convert_backbone(tmp_path / "x.safetensors", "resnet-18")


def test_another_network_names_the_one_that_fits(tmp_path: Path, resnet18: dict[str, npt.NDArray[Any]]) -> None:
    save_file(resnet18, str(tmp_path / "x.safetensors"))
    with pytest.raises(ModelError, match=r"weights of resnet-50: missing: .*timm/resnet50s\.gluon_in1k"):
        convert_backbone(tmp_path / "x.safetensors", "resnet-50")


def test_pickle_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "resnet18-f37072fd.pth").write_bytes(b"PK\x03\x04\x00\x00\x08\x08\x00\x00")
    with pytest.raises(ModelError, match=r"A PyTorch pickle .* is not opened here.*safetensors\.torch\.save_file"):
        convert_backbone(tmp_path / "resnet18-f37072fd.pth", "resnet-18")


@pytest.mark.parametrize("keep", [0, -1])
def test_broken_safetensors_file(tmp_path: Path, resnet18: dict[str, npt.NDArray[Any]], keep: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file(resnet18, str(path))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match="is not a whole safetensors file"):
        convert_backbone(path, "resnet-18")


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.safetensors cannot be read"):
        convert_backbone(tmp_path / "absent.safetensors", "resnet-18")
