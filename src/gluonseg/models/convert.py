"""Public ImageNet weights of the backbones, from torchvision's, timm's and CSAIL's names to GluonCV's.

GluonCV's resnet18_v1b and resnet34_v1b are the networks resnet18 and resnet34 of torchvision, its mobilenetv2_1.0 and
vgg16_bn are torchvision's mobilenet_v2 and vgg16_bn, its HRNets are timm's. Its resnet50_v1s, 101 and 152, whose stem
is three 3x3 convolutions of 64, 64 and 128 channels, are resnet50s, 101 and 152 of timm. Only names differ, see
:mod:`gluonseg.models.torch_names`. Weights are read from safetensors files; a pickle is never opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import gluonseg.compat  # noqa: F401  (before mxnet, wherever that is imported)
from gluonseg.errors import ModelError
from gluonseg.models.params import check_finite
from gluonseg.models.registry import find_encoder, load_object
from gluonseg.models.torch_names import Shapes, find_torch_names, guess_encoder, list_namings
from gluonseg.text import join_names

FloatArray = npt.NDArray[np.float32]

_FLOATS = ("F16", "F32", "F64")
_COUNTERS = (".num_batches_tracked", "._tmp_running_mean", "._tmp_running_var", "._running_iter")
"""What PyTorch's batch norms keep beside their values, CSAIL's own the last three."""
_KEPT = ("fc.weight", "fc.bias")
"""A ResNet's classifier: the encoder does not need it; with it the parameters load into GluonCV's class, too."""


def build_backbone(backbone: str) -> Any:
    """Build GluonCV's own classifier (1000 classes, not dilated); its values are not set."""
    from gluoncv.model_zoo import get_model

    return get_model(find_encoder(backbone).gluoncv, pretrained=False)


def compute_shapes(block: Any) -> dict[str, tuple[int, ...]]:
    """Shape by structural name of the parameters that a block needs; its input is a batch of RGB photos."""
    import mxnet as mx

    outputs = block(mx.sym.var("data"))
    symbol = mx.sym.Group([output for output in outputs if output.name != "data"])
    arguments, _, auxiliary = symbol.infer_shape(data=(1, 3, 64, 64))
    names = (*symbol.list_arguments(), *symbol.list_auxiliary_states())
    shapes = dict(zip(names, (*arguments, *auxiliary), strict=True))
    parameters = block._collect_params_with_prefix()
    return {name: shapes[one.name] for name, one in parameters.items() if one.name in shapes}


def compute_backbone_shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of an encoder by structural name (``layer1.0.bn1.gamma``)."""
    return compute_shapes(load_object(find_encoder(backbone).build)(backbone, 32))


def describe_mismatch(expected: Shapes, found: Shapes) -> str | None:
    """Say which tensors are missing, not expected or of the wrong shape; None when all agree."""
    both = [name for name in expected if name in found]
    problems = {
        "missing": [name for name in expected if name not in found],
        "not expected": [name for name in found if name not in expected],
        "wrong shape": [f"{n} is {found[n]}, not {expected[n]}" for n in both if found[n] != expected[n]],
    }
    return "; ".join(f"{title}: {join_names(names, limit=3)}" for title, names in problems.items() if names) or None


@contextmanager
def _open(source: Path) -> Iterator[Any]:
    """Open a safetensors file; ModelError when it is none."""
    from safetensors import SafetensorError, safe_open

    if source.is_dir():
        raise ModelError(f"{source} is a folder. Give the path of a .safetensors file.")
    try:
        with safe_open(str(source), framework="np") as handle:
            yield handle
    except OSError as error:
        raise ModelError(f"{source} cannot be read: {error}. Give the path of a .safetensors file.") from error
    except SafetensorError as error:
        raise ModelError(
            f"{source} is not a whole safetensors file: {error}. "
            "A PyTorch pickle (.pth, .pt, .bin) is not opened here, because that runs code from it; where "
            "PyTorch is installed, safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'x.safetensors') "
            "makes a safetensors file of it"
        ) from error


def read_shapes(source: Path) -> dict[str, tuple[int, ...]]:
    """Shape by name of the tensors of a safetensors file, without the counters of batch norms."""
    with _open(source) as handle:
        names = [name for name in handle.keys() if not name.endswith(_COUNTERS)]  # noqa: SIM118
        return {name: tuple(handle.get_slice(name).get_shape()) for name in names}


def read_floats(source: Path, names: Mapping[str, str]) -> dict[str, FloatArray]:
    """Read from a safetensors file the tensors that ``names`` lists, as float32 under the names that it gives them.

    Raises ModelError when one is not of 16, 32 or 64 bit floats, or holds a value that is not finite.
    """
    with _open(source) as handle:
        types = {name: handle.get_slice(name).get_dtype() for name in names}
        odd = [f"{name} ({kind})" for name, kind in types.items() if kind not in _FLOATS]
        if odd:
            raise ModelError(
                f"{source} must hold 16, 32 or 64 bit floats, not {join_names(odd, 3)}. Save it as float32."
            )
        arrays = {ours: handle.get_tensor(name).astype(np.float32) for name, ours in names.items()}
    check_finite(arrays, source)
    return arrays


def match_backbone(source: Path, backbone: str, found: Shapes) -> dict[str, str]:
    """GluonCV's name by PyTorch's of the encoder's parameters in the safetensors file ``source``.

    ``found`` are the shapes of its tensors, see :func:`read_shapes`. Raises ModelError, naming the tensors, when one is
    missing, left over or of another shape; those of the classifier may be there or not.
    """
    public = find_encoder(backbone).public
    if not list_namings(backbone):
        raise ModelError(f"no safetensors file of {backbone} is read; give GluonCV's .params file of it")
    shapes = compute_backbone_shapes(backbone)
    names, naming = find_torch_names(backbone, shapes, found)
    needed = {name: shape for name, shape in found.items() if name in names or not name.startswith(naming.unused)}
    mismatch = describe_mismatch({torch: shapes[name] for torch, name in names.items()}, needed)
    if mismatch:
        other = guess_encoder(found)
        holds = f" It looks like {other}." if other not in ("", backbone) else ""
        fit = f" The network that fits is {public} on the Hugging Face hub." if public else ""
        raise ModelError(f"{source} does not hold the weights of {backbone}: {mismatch}.{holds}{fit}")
    return names


def convert_backbone(source: Path, backbone: str) -> dict[str, FloatArray]:
    """Read the weights of ``backbone`` from ``source``, a safetensors file with torchvision's, timm's or CSAIL's names.

    Returns float32 arrays under GluonCV's structural names; those of a ResNet have ``fc.*`` if the file has it, and
    load into GluonCV's class as a ``.params`` file. The classifiers of other networks and the counters of batch norms
    are left out. Raises ModelError when the file is no safetensors file, or when a tensor is missing, left over, of
    another shape or not finite.
    """
    found = read_shapes(source)
    names = match_backbone(source, backbone, found)
    kept = {name: name for name in _KEPT if name in found}
    return read_floats(source, names | kept)
