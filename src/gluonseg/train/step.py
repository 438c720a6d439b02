"""One update of the network on one batch, over one or several devices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt

from gluonseg.data.loader import Batch
from gluonseg.errors import TrainingDivergedError
from gluonseg.losses import MixedLoss
from gluonseg.predict.preprocess import normalise_images

Float32Array = npt.NDArray[np.float32]


class Stepper:
    """Forward, backward and update; the network's parameters live on ``devices``.

    The batch is cut into one part a device. Every part's loss is divided by the weight of the whole
    batch's scored pixels, so the gradients add up to those of one large batch, whatever the cut.
    """

    def __init__(
        self,
        network: Any,
        loss: MixedLoss,
        trainer: mx.gluon.Trainer,
        devices: Sequence[Any],
        weight_table: Float32Array,
        dtype: str = "float32",
    ) -> None:
        self._network = network
        self._loss = loss
        self._trainer = trainer
        self._devices = list(devices)
        self._weight_table = weight_table
        self._dtype = dtype

    def update(self, batch: Batch, learning_rate: float) -> Any:
        """Train on ``batch`` at ``learning_rate``; returns the mean loss as an NDArray not yet waited for."""
        pixel_weights = self._weight_table[batch.class_ids]
        # A batch without one scored pixel has loss 0 and gradient 0; dividing by 1 keeps both finite.
        total_weight = float(pixel_weights.sum(dtype=np.float64)) or 1.0
        parts = [
            self._place(*part)
            for part in zip(
                self._split(normalise_images(batch.images)),
                self._split(batch.class_ids.astype(np.float32)),
                self._split(pixel_weights),
                self._devices,
                strict=False,
            )
        ]
        losses = []
        with mx.autograd.record():
            for images, class_ids, weights in parts:
                outputs = self._network(images)
                losses.append(self._loss(class_ids, weights, *outputs) / total_weight)
        mx.autograd.backward(losses)
        self._trainer.set_learning_rate(learning_rate)
        self._trainer.step(1, ignore_stale_grad=len(parts) < len(self._devices))
        return mx.nd.add_n(*(loss.as_in_context(self._devices[0]) for loss in losses))

    def _split(self, array: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        return [part for part in np.array_split(array, len(self._devices)) if len(part)]

    def _place(self, images: Any, class_ids: Any, weights: Any, device: Any) -> tuple[Any, Any, Any]:
        return (
            mx.nd.array(images, ctx=device, dtype=self._dtype),
            mx.nd.array(class_ids, ctx=device),
            mx.nd.array(weights, ctx=device),
        )


def check_finite(loss: float, epoch: int, iteration: int) -> None:
    """Raise TrainingDivergedError, naming the step, when ``loss`` is not a finite number."""
    if not math.isfinite(loss):
        raise TrainingDivergedError(
            f"the training loss became {loss} at epoch {epoch}, iteration {iteration}; "
            "lower learning_rate (or check the masks with gluonseg check)"
        )


def check_finite_parameters(network: Any, device: Any, epoch: int, iteration: int) -> None:
    """Raise TrainingDivergedError when a parameter on ``device`` is not finite after the step named.

    The loss alone does not tell: a ReLU turns not-a-number into 0, so that a network whose first layers
    are lost goes on with a finite loss.
    """
    for name, parameter in network._collect_params_with_prefix().items():
        if not mx.nd.contrib.isfinite(parameter.data(device)).min().asscalar():
            raise TrainingDivergedError(
                f"the parameter {name} is no longer finite after epoch {epoch}, iteration {iteration}; "
                "lower learning_rate"
            )
