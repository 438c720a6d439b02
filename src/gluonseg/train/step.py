"""One update of the network on one batch, over one or several devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt

from gluonseg.data.loader import Batch
from gluonseg.errors import TrainingDivergedError
from gluonseg.labels import UInt8Array
from gluonseg.models.network import CoarseNetwork
from gluonseg.predict.enlarge import compute_mask
from gluonseg.predict.mxnet_engine import normalise_images
from gluonseg.train.coarse_loss import CoarseLoss
from gluonseg.train.exchange import Exchange
from gluonseg.train.losses import MixedLoss

Float32Array = npt.NDArray[np.float32]

_FLOAT16_SCALE = 1024.0
"""Factor of the loss in float16, in which the gradient of one pixel among many would become 0."""


@dataclasses.dataclass(frozen=True)
class _Part:
    """One device's share of a batch."""

    images: Any
    class_ids: UInt8Array
    pixel_weights: Float32Array


def place_array(values: Float32Array, device: Any, dtype: str = "float32") -> Any:
    """``values`` on ``device`` as ``dtype``.

    On the CPU in float32 it shares the memory of ``values``, which must not be written to any more: copying a batch
    costs more than normalising it.
    """
    if device == mx.cpu() and dtype == "float32":
        return mx.nd.from_numpy(values)
    return mx.nd.array(values, ctx=device, dtype=dtype)


class Stepper:
    """Forward, backward and update; the network's parameters live on ``devices``.

    The batch is cut into one part a device. Every part's loss is divided by the weight of the whole
    batch's scored pixels, so the gradients add up to those of one large batch, whatever the cut. On several hosts
    ``exchange`` does the same for the parts of all of them.
    """

    def __init__(
        self,
        network: Any,
        loss: MixedLoss,
        trainer: mx.gluon.Trainer,
        devices: Sequence[Any],
        weight_table: Float32Array,
        dtype: str = "float32",
        *,
        syncbn: bool = False,
        align_corners: bool = True,
        exchange: Exchange | None = None,
    ) -> None:
        self.trainer = trainer
        self.exchange = exchange
        self._network = CoarseNetwork(network)
        self._network.hybridize(static_alloc=True)
        self._loss = CoarseLoss(loss, align_corners)
        self._align_corners = align_corners
        self._syncbn = syncbn
        self._devices = list(devices)
        self._weight_table = weight_table
        self._dtype = dtype
        self._is_compiled = False
        self._scale = _FLOAT16_SCALE if dtype == "float16" else 1.0

    def update(self, batch: Batch, learning_rate: float) -> float:
        """Train on ``batch`` at ``learning_rate``; returns the mean loss."""
        pixel_weights = self._weight_table[batch.class_ids]
        own_weight = float(pixel_weights.sum(dtype=np.float64))
        # A batch without one scored pixel has loss 0 and gradient 0; dividing by 1 keeps both finite.
        total_weight = own_weight or 1.0
        # Every pixel's share of the mean is in its weight.
        parts = self._place(batch, pixel_weights * np.float32(self._scale / total_weight))
        losses = self._run_backward(parts)
        # MXNet 1.9.1 may begin to update a weight that the backward pass still uses: with nag, momentum then differed
        # in its last digits from run to run.
        mx.nd.waitall()
        loss = float(mx.nd.add_n(*(loss.as_in_context(self._devices[0]) for loss in losses)).asscalar()) / self._scale
        self.trainer.set_learning_rate(learning_rate)
        if not self.exchange:
            self.trainer.step(self._scale, ignore_stale_grad=len(parts) < len(self._devices))
            return loss
        if len(self._devices) > 1:
            self.trainer.allreduce_grads()
        loss = self.exchange.reduce(loss, own_weight)
        self.trainer.update(self._scale)
        return loss

    def predict(self, images_nhwc: UInt8Array) -> UInt8Array:
        """Class ids (N, H, W) of RGB images (N, H, W, 3), as the network is now; on the first device.

        Raises FloatingPointError when the network gives values that are not finite.
        """
        # The compiled network of the training, auxiliary head included, takes no further memory.
        images = place_array(normalise_images(images_nhwc), self._devices[0], self._dtype)
        coarse = self._network(images)[0].asnumpy().astype(np.float32, copy=False)
        if not np.isfinite(coarse).all():
            raise FloatingPointError("the network gives values that are not finite")
        height, width = images_nhwc.shape[1:3]
        return np.stack([compute_mask(logits, height, width, self._align_corners) for logits in coarse])

    def forget_compiled(self) -> None:
        """Have the network compiled again; call it when the network has changed."""
        self._network.hybridize(static_alloc=True)
        self._is_compiled = False
        if self.exchange:
            self.exchange.find_arrays()

    def _run_backward(self, parts: Sequence[_Part]) -> list[Any]:
        """Forward and backward of every part; returns their losses."""
        if len(parts) == 1 or not self._syncbn:
            # These calls return at once, and MXNet computes all parts at the same time. From several threads, devices
            # would draw from one generator in an order that differs from run to run.
            return [self._backward(part) for part in parts]
        if not self._is_compiled:
            # MXNet works out sizes and compiles once, which several threads must not do at the same time.
            for part in parts:
                self._network(part.images)
            mx.nd.waitall()
            self._is_compiled = True
        # A thread a device: synchronised batch norm makes each wait for all others, in the call itself.
        with ThreadPoolExecutor(len(parts), thread_name_prefix="device") as pool:
            return list(pool.map(self._backward, parts))

    def _backward(self, part: _Part) -> Any:
        with mx.autograd.record():
            outputs = self._network(part.images)
        loss, gradients = self._loss.differentiate(part.class_ids, part.pixel_weights, outputs)
        mx.autograd.backward(list(outputs), gradients)
        return loss

    def _place(self, batch: Batch, pixel_weights: Float32Array) -> list[_Part]:
        arrays = (normalise_images(batch.images), batch.class_ids, pixel_weights)
        shares = zip(*(np.array_split(array, len(self._devices)) for array in arrays), strict=True)
        return [
            _Part(place_array(images, device, self._dtype), class_ids, weights)
            for (images, class_ids, weights), device in zip(shares, self._devices, strict=True)
            if len(images)
        ]


def check_finite_parameters(network: Any, device: Any, epoch: int, iteration: int) -> None:
    """Raise TrainingDivergedError when a parameter on ``device`` is not finite after that step.

    The loss alone does not show it: a ReLU turns not-a-number into 0, so a network whose first layers are lost goes on
    with a finite loss.
    """
    for name, parameter in network._collect_params_with_prefix().items():
        if not mx.nd.contrib.isfinite(parameter.data(device)).min().asscalar():
            raise TrainingDivergedError(
                f"the parameter {name} is no longer finite after epoch {epoch}, iteration {iteration}, "
                "whatever the loss says; lower learning_rate"
            )
