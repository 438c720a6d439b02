"""The loss of logits that are enlarged on the way, without ever holding them at full size.

Enlarging to the photo's size and then taking softmax, logarithm and gradient of every pixel needs a handful of arrays
with one float a class and pixel: on a CPU most of the memory of a step, and at 150 classes half of its time. Here a few
rows at a time are enlarged, scored and differentiated in one go, while they are in the processor's cache; what leaves
is the gradient of the coarse logits. Loss and gradient are those of :class:`MixedLoss` on the enlarged logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt

from gluonseg.machine.limits import read_thread_count
from gluonseg.predict.enlarge import compute_positions
from gluonseg.train.losses import MixedLoss

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.intp]

_BLOCK_VALUES = 1 << 18
"""Floats enlarged at a time: 1 MiB, which a cache holds; BLAS starts threads of its own for several times as many."""
_SAFE_RANGE = 60.0
"""Between coarse logits that differ by less, no sum of exponentials loses a term that counts to underflow."""


def build_enlargement(coarse: int, fine: int, align_corners: bool = True) -> tuple[IntArray, FloatArray]:
    """Bilinear enlargement of one axis from ``coarse`` to ``fine`` values.

    Returns the first coarse value that each fine one is made of (the other one is next to it), shape (fine,), and the
    matrix (fine, coarse) with the weights. They are those of MXNet's ``BilinearResize2D``, which computes in float32.
    """
    position = compute_positions(coarse, fine, align_corners)
    first = np.minimum(position.astype(np.intp), max(0, coarse - 2))
    share = position - first.astype(np.float32)
    matrix = np.zeros((fine, coarse), np.float32)
    index = np.arange(fine)
    matrix[index, first] = 1 - share
    if coarse > 1:
        matrix[index, first + 1] = share
    return first, matrix


def _iter_blocks(first: IntArray, limit: int) -> Iterator[slice]:
    """Runs of at most ``limit`` fine rows that are made of the same two coarse ones."""
    start, count = 0, len(first)
    while start < count:
        end = min(start + limit, int(np.searchsorted(first, first[start], side="right")))
        yield slice(start, end)
        start = end


@np.errstate(invalid="ignore")  # logits that are not finite give such a loss, which the training loop looks for
def differentiate_photo(
    logits_hcw: FloatArray, class_ids: npt.NDArray[np.uint8], weights: FloatArray, align_corners: bool = True
) -> tuple[float, FloatArray]:
    """Weighted sum of the cross-entropies of one photo's pixels, and its gradient.

    Args:
        logits_hcw: (h, C, W), as wide as the photo, but of ``h`` rows that are still to be enlarged to ``H``.
        class_ids: (H, W), all below C.
        weights: (H, W), of each pixel; 0 leaves it out.
        align_corners: how the rows are enlarged, see :class:`gluonseg.models.registry.Network`.

    Returns:
        The sum, and its gradient (h, C, W).
    """
    coarse, classes, width = logits_hcw.shape
    if coarse == len(class_ids):
        gradient = logits_hcw - logits_hcw.max(axis=1, keepdims=True)
        return _differentiate_rows(gradient, class_ids, weights), gradient
    first, rows = build_enlargement(coarse, len(class_ids), align_corners)
    # An enlarged value lies between those that it is made of: with these at most 0, no exponential overflows.
    logits = (logits_hcw - logits_hcw.max(axis=1, keepdims=True)).reshape(coarse, -1)
    is_safe = bool(logits.min() > -_SAFE_RANGE)
    gradient = np.zeros_like(logits)
    limit = max(2, _BLOCK_VALUES // logits.shape[1])
    buffer = np.empty((min(limit, len(first)), classes, width), np.float32)
    total = 0.0
    for block in _iter_blocks(first, limit):
        pair = slice(first[block.start], first[block.start] + 2)
        values = buffer[: block.stop - block.start]
        flat = values.reshape(len(values), -1)
        np.matmul(rows[block, pair], logits[pair], out=flat)
        if not is_safe:
            values -= values.max(axis=1, keepdims=True)
        total += _differentiate_rows(values, class_ids[block], weights[block])
        gradient[pair] += rows[block, pair].T @ flat
    return total, gradient.reshape(logits_hcw.shape)


def _differentiate_rows(logits_rcw: FloatArray, class_ids: npt.NDArray[np.uint8], weights: FloatArray) -> float:
    """The sum over some rows (R, C, W); puts its gradient in the place of the logits."""
    height, classes, width = logits_rcw.shape
    flat = logits_rcw.reshape(-1)
    wanted = (np.arange(height)[:, None] * classes + class_ids) * width + np.arange(width)
    found = flat[wanted]
    np.exp(logits_rcw, out=logits_rcw)
    sums = logits_rcw.sum(axis=1)
    logits_rcw *= (weights / sums)[:, None]
    flat[wanted] -= weights
    return float((weights * (np.log(sums) - found)).sum(dtype=np.float64))


class CoarseLoss:
    """``loss`` of outputs (N, C, h, w) that are enlarged to the size of the class ids, and its gradient."""

    def __init__(self, loss: MixedLoss, align_corners: bool = True) -> None:
        self._loss = loss
        self._align_corners = align_corners
        # As many as MXNet takes: by default one.
        self._threads = read_thread_count() or 1

    def differentiate(
        self, class_ids: npt.NDArray[np.uint8], pixel_weights: FloatArray, outputs: Sequence[Any]
    ) -> tuple[Any, list[Any]]:
        """Loss and gradient, on the device and (the gradient) in the type of the outputs.

        Args:
            class_ids: (N, H, W); a value that is no class has weight 0.
            pixel_weights: (N, H, W).
            outputs: logits of the head and of the auxiliary head, NDArrays (N, C, h, w).

        Returns:
            The sum of the weighted cross-entropies, NDArray (1,) float32; an NDArray (N, C, h, w) for each output.
        """
        on_cpu = outputs[0].context.device_type.startswith("cpu")
        compute = self.differentiate_by_rows if on_cpu else self.differentiate_at_once
        return compute(class_ids, pixel_weights, outputs)

    def differentiate_at_once(
        self, class_ids: npt.NDArray[np.uint8], pixel_weights: FloatArray, outputs: Sequence[Any]
    ) -> tuple[Any, list[Any]]:
        """:meth:`differentiate` by MXNet's operators alone, at full size: on a GPU nothing is copied to the host."""
        device = outputs[0].context
        height, width = class_ids.shape[1:]
        coarse = [output.detach().astype("float32") for output in outputs]
        for logits in coarse:
            logits.attach_grad()
        with mx.autograd.record():
            size = {"height": height, "width": width, "align_corners": self._align_corners}
            enlarged = [mx.nd.contrib.BilinearResize2D(logits, **size) for logits in coarse]
            ids = mx.nd.array(class_ids, ctx=device, dtype="float32")
            loss = self._loss(ids, mx.nd.array(pixel_weights, ctx=device), *enlarged)
        loss.backward()
        pairs = zip(coarse, outputs, strict=True)
        return loss, [logits.grad.astype(output.dtype, copy=False) for logits, output in pairs]

    def differentiate_by_rows(
        self, class_ids: npt.NDArray[np.uint8], pixel_weights: FloatArray, outputs: Sequence[Any]
    ) -> tuple[Any, list[Any]]:
        """:meth:`differentiate` on a CPU, in the memory of a few rows."""
        total, gradients = 0.0, []
        known_ids = np.minimum(class_ids, outputs[0].shape[1] - 1)
        for share, output in zip(self._loss.shares, outputs, strict=False):
            widths = output.shape[3], class_ids.shape[2]
            is_wide = widths[0] == widths[1]
            if not is_wide:
                columns = mx.nd.array(build_enlargement(*widths, self._align_corners)[1], ctx=output.context)
            rows = output.detach().astype("float32", copy=False).transpose((0, 2, 1, 3))
            wide = (rows if is_wide else mx.nd.dot(rows, columns, transpose_b=True)).asnumpy()
            differentiate = partial(differentiate_photo, align_corners=self._align_corners)
            with ThreadPoolExecutor(self._threads) as pool:
                found = list(pool.map(differentiate, wide, known_ids, pixel_weights * np.float32(share)))
            total += sum(part for part, _ in found)
            wide_gradient = mx.nd.array(np.stack([gradient for _, gradient in found]), ctx=output.context)
            gradient = wide_gradient if is_wide else mx.nd.dot(wide_gradient, columns)
            gradients.append(gradient.transpose((0, 2, 1, 3)).astype(output.dtype, copy=False))
        return mx.nd.array([total], ctx=outputs[0].context), gradients
