"""``python benchmarks/parity/theirs.py FOLDER``: PyTorch's side of ``make parity``, in an environment of its own.

Each network gets random values. What it gives for random photos is written to ``FOLDER/NAME.npz``: ``value.0000`` and
so on are the parameters in the order of the layers (batch norm: scale, shift, mean, variance), ``photos.N`` a batch of
one size, and ``output.N.M`` what the network makes of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp  # type: ignore[import-not-found]
import timm  # type: ignore[import-not-found]
import torch  # type: ignore[import-not-found]
import torchvision  # type: ignore[import-not-found]

CLASSES = 5
EVEN, ODD = (64, 96), (45, 74)
"""Sizes that every stride divides, and that none does."""
Run = Callable[[Any], list[Any]]
Case = tuple[Any, Run, Sequence[tuple[int, int]]]
"""A network whose parameters are all compared, what is called with photos, and the sizes that it can do."""


def fill(network: Any, generator: Any) -> None:
    """Random values that keep the features' size in bounds, also where a new network has zeros and ones."""
    for name, value in network.state_dict().items():
        if value.ndim > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1, generator=generator)
        elif value.is_floating_point():  # scales and variances; the count of batches is an integer
            value.uniform_(0.5, 1.5, generator=generator)


def run_layers(layers: Any, ends: Sequence[int]) -> Run:
    """The outputs of these layers of a list."""

    def run(photos: Any) -> list[Any]:
        outputs = []
        for index, layer in enumerate(layers):
            photos = layer(photos)
            if index in ends:
                outputs.append(photos)
        return outputs

    return run


def run_resnet(network: Any) -> Run:
    def run(photos: Any) -> list[Any]:
        x = network.bn1(network.conv1(photos))
        outputs = [getattr(network, "act1", torch.relu)(x)]
        x = network.maxpool(outputs[0])
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            x = stage(x)
            outputs.append(x)
        return outputs

    return run


def build_resnet(network: Any) -> Case:
    del network.fc
    return network, run_resnet(network), (EVEN, ODD)


def build_unet(encoder: str) -> Case:
    network = smp.Unet(encoder, encoder_weights=None, classes=CLASSES)
    if encoder == "mobilenet_v2":
        # Its last 1x1 convolution, to 1280 channels, is none of gluonseg's encoder, nor of CSAIL's.
        network.encoder.features[18] = torch.nn.Identity()
        channels = [3, 16, 24, 32, 96, 320]
        network.decoder = smp.decoders.unet.decoder.UnetDecoder(channels, (256, 128, 64, 32, 16))
    # Two more 3x3 convolutions behind a VGG, which gluonseg's has not; an Identity with other encoders.
    network.decoder.center = torch.nn.Identity()
    return network, lambda photos: [network(photos)], (EVEN,)


def build_mobilenet_v2() -> Case:
    layers = torchvision.models.mobilenet_v2().features[:18]
    return layers, run_layers(layers, (1, 3, 6, 13, 17)), (EVEN, ODD)


def build_vgg() -> Case:
    """The poolings round odd sizes down, so only sizes that every stride divides can be compared."""
    layers = torchvision.models.vgg16_bn().features
    return layers, run_layers(layers, (12, 22, 32, 42, 43)), (EVEN,)


def build_hrnet(name: str) -> Case:
    """The network for segmentation: the enlargement between branches is bilinear; timm has the classifier, nearest."""
    network = timm.create_model(name, pretrained=False)
    for behind in ("incre_modules", "downsamp_modules", "final_layer", "classifier"):
        delattr(network, behind)
    for module in network.modules():
        if isinstance(module, torch.nn.Upsample):
            module.mode, module.align_corners = "bilinear", False

    def run(photos: Any) -> list[Any]:
        stem = torch.relu(network.bn1(network.conv1(photos)))
        return [stem, *network.stages(torch.relu(network.bn2(network.conv2(stem))))]

    return network, run, (EVEN,)


CASES: dict[str, Callable[[], Case]] = {
    "smp-unet-resnet18": lambda: build_unet("resnet18"),
    "smp-unet-vgg16_bn": lambda: build_unet("vgg16_bn"),
    "smp-unet-mobilenet_v2": lambda: build_unet("mobilenet_v2"),
    "torchvision-resnet18": lambda: build_resnet(torchvision.models.resnet18()),
    "torchvision-mobilenet_v2": build_mobilenet_v2,
    "torchvision-vgg16_bn": build_vgg,
    "timm-resnet50s": lambda: build_resnet(timm.create_model("resnet50s", pretrained=False)),
    "timm-hrnet_w18": lambda: build_hrnet("hrnet_w18"),
    "timm-hrnet_w48": lambda: build_hrnet("hrnet_w48"),
}


def write_case(name: str, folder: Path) -> None:
    network, run, sizes = CASES[name]()
    generator = torch.Generator().manual_seed(0)
    fill(network, generator)
    network.eval()
    values = [value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")]
    arrays = {f"value.{index:04}": value for index, value in enumerate(values)}
    for number, size in enumerate(sizes):
        photos = torch.randn(2, 3, *size, generator=generator)
        arrays[f"photos.{number}"] = photos
        arrays |= {f"output.{number}.{index}": one for index, one in enumerate(run(photos))}
    np.savez(folder / f"{name}.npz", **{key: value.numpy() for key, value in arrays.items()})


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        for name in CASES:
            write_case(name, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
