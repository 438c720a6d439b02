"""Weights of torchvision and timm under GluonCV's names, and files that are not those weights.

The tensors are drawn. A forward pass in numpy, by the torch names, gave the logits of GluonCV 0.10.5.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import gluonseg.compat  # noqa: F401
from backbone_array import Arrays, draw_arrays
from gluonseg.errors import ModelError
from gluonseg.models.convert import convert_backbone
from gluonseg.models.torch_names import compute_torch_name


@pytest.mark.parametrize(
    ("backbone", "millions", "some"),
    [
        ("resnet-18", 11.69, {"conv1.weight": (64, 3, 7, 7), "layer2.0.downsample.0.weight": (128, 64, 1, 1)}),
        ("resnet-34", 21.80, {"layer3.5.conv2.weight": (256, 256, 3, 3), "fc.weight": (1000, 512)}),
        ("resnet-50", 25.68, {"conv1.3.weight": (64, 64, 3, 3), "conv1.4.running_var": (64,)}),
        ("resnet-101", 44.67, {"layer3.22.conv3.weight": (1024, 256, 1, 1), "bn1.bias": (128,)}),
        ("resnet-152", 60.32, {"layer4.2.bn3.running_mean": (2048,), "fc.bias": (1000,)}),
    ],
)
def test_names_and_shapes_are_those_of_the_torch_networks(
    backbone: str, millions: float, some: dict[str, tuple[int, ...]]
) -> None:
    """The numbers of parameters that torchvision and timm publish, and some of their names and shapes."""
    shapes = {compute_torch_name(name): array.shape for name, array in draw_arrays(backbone).items()}
    trained = [np.prod(shape) for name, shape in shapes.items() if ".running_" not in name]
    assert round(float(sum(trained)) / 1e6, 2) == millions
    assert {name: shapes[name] for name in some} == some


@pytest.fixture(scope="module")
def resnet18() -> Arrays:
    """Every tensor of torchvision's resnet18 under its names there."""
    arrays = {compute_torch_name(name): array for name, array in draw_arrays("resnet-18").items()}
    return {**arrays, "bn1.num_batches_tracked": np.array(9)}


Change = Callable[[Arrays], object]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.pop("layer3.1.bn2.running_mean"), r"missing: layer3\.1\.bn2\.running_mean"),
        (lambda t: t.update({"layer5.0.conv1.weight": np.zeros(1)}), r"not expected: layer5\.0\.conv1\.weight"),
        (
            lambda t: t.update({"conv1.weight": np.zeros((64, 1, 7, 7))}),
            r"wrong shape: conv1\.weight is \(64, 1, 7, 7\), not \(64, 3, 7, 7\)",
        ),
        (lambda t: t.update({"bn1.bias": np.zeros(64, np.int32)}), r"32 or 64 bit floats, not bn1\.bias \(I32\)"),
        (lambda t: t.update({"bn1.bias": np.full(64, np.nan, np.float32)}), r"not finite in bn1\.beta"),
    ],
    ids=["missing", "extra", "shape", "integers", "nan"],
)
def test_wrong_tensor_is_named(tmp_path: Path, resnet18: Arrays, change: Change, match: str) -> None:
    tensors = dict(resnet18)
    change(tensors)
    save_file(tensors, str(tmp_path / "x.safetensors"))
    with pytest.raises(ModelError, match=match):
        convert_backbone(tmp_path / "x.safetensors", "resnet-18")


def test_every_tensor_is_kept_and_half_precision_becomes_float32(tmp_path: Path, resnet18: Arrays) -> None:
    halves = {name: array.astype(np.float16) if array.ndim else array for name, array in resnet18.items()}
    save_file(halves, str(tmp_path / "x.safetensors"))
    arrays = convert_backbone(tmp_path / "x.safetensors", "resnet-18")
    assert {array.dtype.name for array in arrays.values()} == {"float32"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, halves[compute_torch_name(name)].astype(np.float32), err_msg=name)


def test_another_network_names_the_one_that_fits(tmp_path: Path, resnet18: Arrays) -> None:
    save_file(resnet18, str(tmp_path / "x.safetensors"))
    with pytest.raises(ModelError, match=r"of resnet-50: missing: .* It looks like resnet-18\. .*timm/resnet50s"):
        convert_backbone(tmp_path / "x.safetensors", "resnet-50")


def test_pickle_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "resnet18-f37072fd.pth").write_bytes(b"PK\x03\x04\x00\x00\x08\x08\x00\x00")
    with pytest.raises(ModelError, match=r"A PyTorch pickle .* is not opened here.*safetensors\.torch\.save_file"):
        convert_backbone(tmp_path / "resnet18-f37072fd.pth", "resnet-18")


@pytest.mark.parametrize("keep", [0, -1])
def test_broken_safetensors_file(tmp_path: Path, resnet18: Arrays, keep: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file(resnet18, str(path))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match="is not a whole safetensors file"):
        convert_backbone(path, "resnet-18")


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.safetensors cannot be read"):
        convert_backbone(tmp_path / "absent.safetensors", "resnet-18")
