"""Steps of the same training in PyTorch on a batch that is loaded already: FCN on resnet-18.

``python -m benchmarks.peers.torch_step CLASSES``, with the Python of an environment that has torch and numpy and needs
no gluonseg. The network is GluonCV's, layer by layer: the ResNet with an output stride of 8, the head, the auxiliary
head. The cross entropy is of the logits at full size.
"""

from __future__ import annotations

import sys
from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]
from torch import nn  # type: ignore[import-not-found,unused-ignore]
from torch.nn import functional  # type: ignore[import-not-found,unused-ignore]

from benchmarks.training_batch import AUX_WEIGHT, CROP, IGNORE, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, draw_batch
from benchmarks.variant import Measurement, serve_rounds

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_STAGES = ((64, 1, 1, 1), (128, 2, 1, 1), (256, 1, 1, 2), (512, 1, 2, 4))
"""Channels, stride, dilation of the very first convolution, dilation of the others."""


def _build_convolution(before: int, channels: int, size: int, stride: int = 1, dilation: int = 1) -> Any:
    padding = dilation * (size // 2)
    convolution = nn.Conv2d(before, channels, size, stride, padding, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels))


class _Block(nn.Module):  # type: ignore[misc,unused-ignore]
    """Two convolutions of 3x3 beside a short cut."""

    def __init__(self, before: int, channels: int, stride: int, first_dilation: int, dilation: int) -> None:
        super().__init__()
        self._body = nn.Sequential(
            _build_convolution(before, channels, 3, stride, first_dilation),
            nn.ReLU(inplace=True),
            _build_convolution(channels, channels, 3, dilation=dilation),
        )
        is_same = stride == 1 and before == channels
        self._short_cut = nn.Identity() if is_same else _build_convolution(before, channels, 1, stride)

    def forward(self, x: Any) -> Any:
        return functional.relu(self._body(x) + self._short_cut(x), inplace=True)


def _build_head(channels: int, num_classes: int) -> Any:
    between = channels // 4
    convolution = _build_convolution(channels, between, 3)
    return nn.Sequential(convolution, nn.ReLU(inplace=True), nn.Dropout(0.1), nn.Conv2d(between, num_classes, 1))


class FCN(nn.Module):  # type: ignore[misc,unused-ignore]
    """The logits of the head and of the auxiliary head, enlarged to the crop."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        stem = (_build_convolution(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
        stages, before = [], 64
        for channels, stride, first, dilation in _STAGES:
            one = _Block(before, channels, stride, first, dilation)
            stages.append(nn.Sequential(one, _Block(channels, channels, 1, dilation, dilation)))
            before = channels
        self._early, self._late = nn.Sequential(*stem, *stages[:3]), stages[3]
        self._head, self._auxiliary = _build_head(512, num_classes), _build_head(256, num_classes)

    def forward(self, x: Any) -> tuple[Any, ...]:
        features = self._early(x)
        coarse = (self._head(self._late(features)), self._auxiliary(features))
        return tuple(
            functional.interpolate(logits, (CROP, CROP), mode="bilinear", align_corners=True) for logits in coarse
        )


def main(classes: str) -> None:
    """Serve rounds of one step each."""
    network = FCN(int(classes)).train()
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)
    images, class_ids = (torch.from_numpy(array) for array in draw_batch(int(classes)))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))

    def run() -> Measurement:
        photos = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
        wanted = class_ids.long()
        head, auxiliary = (functional.cross_entropy(logits, wanted, ignore_index=IGNORE) for logits in network(photos))
        loss = head + AUX_WEIGHT * auxiliary
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    run()
    serve_rounds(run, {"version": torch.__version__})


if __name__ == "__main__":
    main(*sys.argv[1:])
