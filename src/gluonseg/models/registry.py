"""The networks and their encoders, each declared once. Everything else reads what it needs from here.

Reading a declaration imports no MXNet: reports, command lines and SageMaker's SDK need names and titles only.
A package adds a network by an entry point of the group ``gluonseg.networks`` that names its :class:`Network`;
docs/networks.md has an example.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from gluonseg.errors import ModelError
from gluonseg.text import find_nearest, join_names

ENTRY_POINTS = "gluonseg.networks"
STRIDES = (1, 2, 4, 8, 16, 32, 64)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoder:
    """A backbone: it turns a photo into features of several strides.

    Attributes:
        name: as the hyperparameter ``backbone`` takes it.
        build: ``module:name`` of a class or function that is called with ``(name, output_stride, **norm)`` and returns
            the encoder; see :class:`gluonseg.models.encoders.ResNetEncoder`.
        gluoncv: name of the same network in GluonCV's model zoo, which has ImageNet weights for it; empty for none.
        public: the repository on the Hugging Face hub with the same weights as a safetensors file; empty for none.
    """

    name: str
    build: str
    gluoncv: str = ""
    public: str = ""


@dataclass(frozen=True)
class Network:
    """A segmentation network.

    Attributes:
        name: as the hyperparameter ``algorithm`` takes it.
        title: as reports and docs write it.
        build: ``module:Class`` of a subclass of :class:`gluonseg.models.network.SegmentationNetwork`.
        encoders: the backbones that it can have.
        output_strides: side in pixels of the photo's square that one place of the logits stands for; the first is the
            default.
        align_corners: how the logits are enlarged to the photo: True puts the centres of the corner pixels on one
            another, False the outer edges (``align_corners`` of PyTorch and MXNet).
        has_auxiliary: whether it has a second head for training, on the features before the last.
        heads: beginnings of the names of all parameters that are not the encoder's. These have a learning rate of
            their own, and are trained while the backbone is frozen.
        class_heads: the ``heads`` that depend on the number of classes. They start anew when a model is trained
            further with another number of classes.
    """

    name: str
    title: str
    build: str
    encoders: tuple[Encoder, ...]
    output_strides: tuple[int, ...] = (8,)
    align_corners: bool = True
    has_auxiliary: bool = True
    heads: tuple[str, ...] = ("head.", "auxlayer.")
    class_heads: tuple[str, ...] = ("head.", "auxlayer.")

    def __post_init__(self) -> None:
        if not all(isinstance(one, tuple) and one for one in (self.encoders, self.output_strides, self.heads)):
            raise ValueError("encoders, output_strides and heads must be tuples, as (8,)")
        if not all(stride in STRIDES for stride in self.output_strides):
            raise ValueError(f"output_strides must be of {STRIDES}, not {self.output_strides}")
        if not all(head.endswith(".") for head in self.heads) or not set(self.class_heads) <= set(self.heads):
            raise ValueError("heads must end in a dot, and class_heads must be some of them")

    def describe(self, *, aux: bool = True, output_stride: int | None = None) -> dict[str, Any]:
        """What a model's card says of the network: the fields of :class:`gluonseg.models.folder.card.ModelCard`."""
        return {
            "aux": aux and self.has_auxiliary,
            "output_stride": output_stride or self.output_strides[0],
            "align_corners": self.align_corners,
        }

    def list_problems(self, backbone: str, output_stride: int | None) -> list[str]:
        """What is wrong with this network on ``backbone`` at ``output_stride`` (None is the default), in words."""
        problems, backbones = [], [encoder.name for encoder in self.encoders]
        if backbone not in backbones:
            others = [one.name for one in get_networks().values() if get_encoders().get(backbone) in one.encoders]
            hint = f"; {backbone} goes with {', '.join(others)}" if others else ""
            problems.append(f"{self.name} has no backbone {describe_unknown(backbone, backbones)}{hint}")
        if output_stride not in (None, *self.output_strides):
            valid = " or ".join(map(str, self.output_strides))
            problems.append(f"output_stride of {self.name} must be {valid}; got {output_stride}")
        return problems


def _declare_resnet(depth: int, gluoncv: str, public: str) -> Encoder:
    return Encoder(f"resnet-{depth}", "gluonseg.models.encoders:ResNetEncoder", gluoncv, f"timm/{public}")


RESNETS = (
    _declare_resnet(50, "resnet50_v1s", "resnet50s.gluon_in1k"),
    _declare_resnet(101, "resnet101_v1s", "resnet101s.gluon_in1k"),
    _declare_resnet(18, "resnet18_v1b", "resnet18.tv_in1k"),
    _declare_resnet(34, "resnet34_v1b", "resnet34.tv_in1k"),
    _declare_resnet(152, "resnet152_v1s", "resnet152s.gluon_in1k"),
)
"""The built-in algorithm's two first. The deep ones are v1s: their stem is three 3x3 convolutions, which is the same
network as timm's resnet50s; resnet-18 and 34 are torchvision's."""

_ENCODERS = "gluonseg.models.encoders"
RESNET_18S = Encoder("resnet-18s", f"{_ENCODERS}:ResNetEncoder")
"""CSAIL's ResNet-18, with the stem of the deep ones."""
MOBILENET = Encoder("mobilenet", f"{_ENCODERS}:MobileNetEncoder", "mobilenet1.0")
MOBILENET_V2 = Encoder("mobilenet-v2", f"{_ENCODERS}:MobileNetV2Encoder", "mobilenetv2_1.0")
VGG_16 = Encoder("vgg-16", f"{_ENCODERS}:VGGEncoder", "vgg16_bn", "timm/vgg16_bn.tv_in1k")
HRNETS = tuple(
    Encoder(f"hrnet-{width}", f"{_ENCODERS}:HRNetEncoder", f"hrnet_{width}_c", f"timm/hrnet_{width}.ms_in1k")
    for width in ("w18", "w48")
)
DILATED = (*RESNETS, RESNET_18S, MOBILENET, MOBILENET_V2, VGG_16)
"""The encoders that can have an output stride of 8 and 16."""


def _declare(name: str, title: str, build: str, encoders: tuple[Encoder, ...] = DILATED, **options: Any) -> Network:
    return Network(name, title, f"gluonseg.models.{build}", encoders, **{"output_strides": (8, 16, 32), **options})


_DECODER: dict[str, Any] = {
    "has_auxiliary": False,
    "heads": ("decoder.", "classifier."),
    "class_heads": ("classifier.",),
}
_FUSED: dict[str, Any] = {
    "output_strides": (4,), "align_corners": False, "has_auxiliary": False, "heads": ("head.",),
    "class_heads": ("head.",),
}  # fmt: skip
_OWN = (
    _declare("fcn", "FCN", "fcn:FCN"),
    _declare("psp", "PSP", "psp:PSPNet"),
    _declare("deeplab", "DeepLab", "deeplab:DeepLabV3"),
    _declare("unet", "UNet", "unet:UNet", (*DILATED, *HRNETS), output_strides=(1,), **_DECODER),
    _declare("deeplabplus", "DeepLabV3+", "deeplabplus:DeepLabV3Plus", output_strides=(4,)),
    _declare("segnet", "SegNet", "segnet:SegNet", output_strides=(2,), **_DECODER),
    _declare("c1", "C1", "csail:C1", align_corners=False),
    _declare("ppm", "PPM", "csail:PPM", align_corners=False),
    _declare("upernet", "UPerNet", "csail:UPerNet", (*DILATED, *HRNETS), **_FUSED),
    _declare("upernet-lite", "UPerNet lite", "csail:UPerNetLite", (*DILATED, *HRNETS), **_FUSED),
    _declare("hrnet", "HRNet", "csail:HRNet", HRNETS, **_FUSED),
)


@functools.cache
def get_networks() -> Mapping[str, Network]:
    """All networks by name: those of gluonseg, then those of other packages.

    A declaration that cannot be used is left out, and a warning says why.
    """
    networks = {network.name: network for network in _OWN}
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda one: one.name):
        try:
            network = entry.load()
            problem = _find_problem(network, networks)
        except Exception as error:  # another package's code may raise anything; the other networks can be used
            problem = f"it cannot be loaded: {error}"
        if problem:
            _log.warning("The network %s of the entry point %s is left out: %s", entry.name, entry.value, problem)
        else:
            networks[network.name] = network
    return networks


def _find_problem(network: object, others: Mapping[str, Network]) -> str | None:
    """Why ``network``, the object of an entry point, cannot be used beside ``others``; None when it can."""
    if not isinstance(network, Network):
        return f"it is no gluonseg.models.registry.Network but a {type(network).__name__}"
    if network.name in others:
        return f"there is a network {network.name} already"
    known = {encoder.name: encoder for other in others.values() for encoder in other.encoders}
    taken = [encoder.name for encoder in network.encoders if known.get(encoder.name, encoder) != encoder]
    return f"there is another encoder {taken[0]} already" if taken else None


@functools.cache
def get_encoders() -> Mapping[str, Encoder]:
    """The encoders of all networks by name."""
    return {encoder.name: encoder for network in get_networks().values() for encoder in network.encoders}


def describe_unknown(name: str, valid: Iterable[str]) -> str:
    """``'fnc' (did you mean fcn?); valid ones: fcn, psp``: the end of a message about an unknown name."""
    known = list(valid)
    nearest = find_nearest(name, known)
    hint = f" (did you mean {nearest}?)" if nearest else ""
    return f"{name[:100]!r}{hint}; valid ones: {join_names(known, limit=100)}"


def find_network(name: str) -> Network:
    """The network called ``name``; ModelError with the valid names when there is none."""
    networks = get_networks()
    if name not in networks:
        raise ModelError(f"unknown algorithm {describe_unknown(name, networks)}")
    return networks[name]


def find_encoder(name: str) -> Encoder:
    """The encoder called ``name``; ModelError with the valid names when there is none."""
    encoders = get_encoders()
    if name not in encoders:
        raise ModelError(f"unknown backbone {describe_unknown(name, encoders)}")
    return encoders[name]


def get_title(algorithm: str) -> str:
    """The title of an algorithm, for reports; its name when its network is not installed."""
    network = get_networks().get(algorithm)
    return network.title if network else algorithm


def get_heads() -> tuple[str, ...]:
    """Beginnings of the names of all parameters that belong to a head, of whatever network."""
    return tuple({head: None for network in get_networks().values() for head in network.heads})


def load_object(reference: str) -> Any:
    """The object that ``module:name`` refers to; ModelError when there is none."""
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ModelError(f"{reference}, which a network's declaration names, cannot be loaded: {error}") from error
