"""What the layers of the encoders are called in PyTorch: in torchvision, timm and CSAIL's segmentation project.

GluonCV's networks are the same ones; where the names differ, the layers are counted another way. Here a *layer* is a
parameter's name without its last part (``layer1.0.bn1``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

Shapes = Mapping[str, tuple[int, ...]]

_LEAVES: Mapping[str, str] = {"gamma": "weight", "beta": "bias"}
"""The names of BatchNorm's scale and shift differ everywhere."""
_DEEP_STEM: Mapping[str, str] = {
    "conv1.0": "conv1", "conv1.1": "bn1", "conv1.3": "conv2", "conv1.4": "bn2", "conv1.6": "conv3", "bn1": "bn3",
}  # fmt: skip
_BODY: Mapping[str, str] = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}
_DEPTHS: Mapping[tuple[int, bool], int] = {
    (8, False): 18, (16, False): 34, (16, True): 50, (33, True): 101, (50, True): 152,
}  # fmt: skip
"""Of a ResNet, by the number of its blocks, and whether a block has a third convolution."""


@dataclass(frozen=True)
class Naming:
    """How one project names an encoder's layers.

    ``rename`` gives its name of a layer from GluonCV's; ``unused`` are the beginnings of the names of parameters that
    the encoder does not need, such as those of the classifier.
    """

    rename: Callable[[str], str]
    unused: tuple[str, ...] = ()


def _keep(layer: str) -> str:
    return layer


def _rename_resnet(layer: str) -> str:
    """CSAIL's: the convolutions of the stem have names and not places."""
    return _DEEP_STEM.get(layer, layer)


def _rename_mobilenet(layer: str) -> str:
    """CSAIL's: the stem is one layer, and the blocks are counted from 1."""
    number, *rest = layer.removeprefix("features.").split(".")
    return f"features.{int(number) - 2}.conv.{rest[-1]}" if rest else f"features.0.{number}"


def _rename_torchvision_mobilenet(layer: str) -> str:
    """As CSAIL's, but a convolution with its batch norm and ReLU is one layer; the last of a block has no ReLU."""
    block, is_block, place = _rename_mobilenet(layer).rpartition(".conv.")
    if not is_block:
        return place
    index, last = int(place), 3 if block == "features.1" else 6
    return f"{block}.conv." + (f"{index // 3}.{index % 3}" if index < last else str(last // 3 + index - last))


def _rename_hrnet(layer: str) -> str:
    """The layers of a block have names; the convolutions from a fine branch to a coarse one are counted by stride."""
    block, is_block, place = layer.partition(".body.")
    if is_block:
        return f"{block}.{_BODY[place]}"
    before, is_fuse, places = layer.partition(".fuse_layers.")
    if is_fuse:
        target, source, index = map(int, places.split("."))
        if source < target:
            return f"{before}.fuse_layers.{target}.{source}.{index // 3}.{index % 3}"
    return layer


_PLAIN = Naming(_keep, ("fc.",))
_CSAIL_RESNET = Naming(_rename_resnet, ("fc.",))
_CSAIL_MOBILENET = Naming(_rename_mobilenet, ("features.18.", "conv.", "classifier."))
_NAMINGS: Mapping[str, tuple[Naming, ...]] = {
    **{f"resnet-{depth}": (_PLAIN, _CSAIL_RESNET) for depth in (50, 101, 152)},
    "resnet-18s": (_CSAIL_RESNET,),
    "mobilenet": (),
    "mobilenet-v2": (Naming(_rename_torchvision_mobilenet, ("features.18.", "classifier.")), _CSAIL_MOBILENET),
    "vgg-16": (Naming(_keep, ("classifier.", "pre_logits.", "head.")),),
    **{
        f"hrnet-{width}": (
            Naming(_rename_hrnet, ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.")),
        )
        for width in ("w18", "w48")
    },
}
"""By encoder; an encoder that is not here has GluonCV's own names."""


def list_namings(backbone: str) -> tuple[Naming, ...]:
    """The ways in which PyTorch projects name the layers of ``backbone``; empty when none is read here."""
    return _NAMINGS.get(backbone, (_PLAIN,))


def compute_torch_name(name: str, naming: Naming = _PLAIN) -> str:
    """``layer1.0.bn1.gamma`` -> ``layer1.0.bn1.weight``: a parameter's name in PyTorch from the one in GluonCV."""
    layer, _, leaf = name.rpartition(".")
    return f"{naming.rename(layer)}.{_LEAVES.get(leaf, leaf)}"


def find_torch_names(backbone: str, names: Shapes, found: Shapes) -> tuple[dict[str, str], Naming]:
    """GluonCV's name by PyTorch's of all parameters ``names``, in the naming that fits the tensors ``found`` best."""

    def translate(naming: Naming) -> dict[str, str]:
        return {compute_torch_name(name, naming): name for name in names}

    candidates = [(translate(naming), naming) for naming in list_namings(backbone)]
    return max(candidates, key=lambda candidate: len(candidate[0].keys() & found.keys()))


def guess_encoder(shapes: Shapes) -> str:
    """The encoder whose tensors ``shapes`` look like, also one that is not known here; empty for none."""
    if "stage4.0.branches.0.0.conv1.weight" in shapes:
        return f"hrnet-w{shapes['stage4.0.branches.0.0.conv1.weight'][0]}"
    if "features.17.conv.0.weight" in shapes or "features.17.conv.0.0.weight" in shapes:
        return "mobilenet-v2"
    if "features.0.weight" in shapes and len(shapes["features.0.weight"]) == 4:
        convolutions = [s for n, s in shapes.items() if n.startswith("features.") and len(s) == 4 and prod(s[2:]) == 9]
        return f"vgg-{len(convolutions) + 3}"
    blocks = {".".join(name.split(".")[:2]) for name in shapes if name.startswith("layer")}
    depth = _DEPTHS.get((len(blocks), "layer1.0.conv3.weight" in shapes))
    is_deep_stem = "conv3.weight" in shapes or "conv1.6.weight" in shapes
    return f"resnet-{depth}{'s' if depth < 50 and is_deep_stem else ''}" if depth else ""
