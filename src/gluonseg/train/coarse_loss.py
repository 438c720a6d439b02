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
from gluonseg.train.loss_law import CROSS_ENTROPY, LossLaw, Pull, weigh_pixels
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


class _Photo:
    """Logits (h, C, W) of one photo that are enlarged to ``height`` rows, a few at a time."""

    def __init__(self, logits_hcw: FloatArray, height: int, align_corners: bool) -> None:
        coarse, self._classes, self._width = logits_hcw.shape
        # An enlarged value lies between those that it is made of: with these at most 0, no exponential overflows.
        self._logits = (logits_hcw - logits_hcw.max(axis=1, keepdims=True)).reshape(coarse, -1)
        self._is_safe = bool(self._logits.min() > -_SAFE_RANGE)
        self._height = height
        self._is_enlarged = coarse != height
        if self._is_enlarged:
            self._first, self._rows = build_enlargement(coarse, height, align_corners)

    def iter_blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        """Which rows, and their logits (R, C, W), in memory that the next ones are written to."""
        limit = max(2, _BLOCK_VALUES // self._logits.shape[1])
        buffer = np.empty((min(limit, self._height), self._classes, self._width), np.float32)
        for block in self._iter_slices(limit):
            values = buffer[: block.stop - block.start]
            if not self._is_enlarged:
                values[:] = self._logits[block].reshape(values.shape)
            else:
                pair = self._find_pair(block)
                np.matmul(self._rows[block, pair], self._logits[pair], out=values.reshape(len(values), -1))
                if not self._is_safe:
                    values -= values.max(axis=1, keepdims=True)
            yield block, values

    def add_gradient(self, block: slice, gradient_rcw: FloatArray, total: FloatArray) -> None:
        """Add the gradient of these rows to that of the coarse logits, ``total`` (h, C * W)."""
        flat = gradient_rcw.reshape(len(gradient_rcw), -1)
        if not self._is_enlarged:
            total[block] = flat
        else:
            pair = self._find_pair(block)
            total[pair] += self._rows[block, pair].T @ flat

    def _iter_slices(self, limit: int) -> Iterator[slice]:
        if self._is_enlarged:
            return _iter_blocks(self._first, limit)
        return (slice(start, min(start + limit, self._height)) for start in range(0, self._height, limit))

    def _find_pair(self, block: slice) -> slice:
        return slice(self._first[block.start], self._first[block.start] + 2)


@np.errstate(invalid="ignore")  # logits that are not finite give such a loss, which the training loop looks for
def differentiate_photo(
    logits_hcw: FloatArray,
    class_ids: npt.NDArray[np.uint8],
    weights: FloatArray,
    align_corners: bool = True,
    law: LossLaw = CROSS_ENTROPY,
) -> tuple[float, FloatArray]:
    """The loss of one photo, and its gradient.

    Args:
        logits_hcw: (h, C, W), as wide as the photo, but of ``h`` rows that are still to be enlarged to ``H``.
        class_ids: (H, W), all below C.
        weights: (H, W), of each pixel; 0 leaves it out.
        align_corners: how the rows are enlarged, see :class:`gluonseg.models.registry.Network`.
        law: what each pixel adds. One that needs the whole photo has the rows enlarged twice.

    Returns:
        The loss, and its gradient (h, C, W).
    """
    photo = _Photo(logits_hcw, len(class_ids), align_corners)
    gradient = np.zeros((len(logits_hcw), logits_hcw[0].size), np.float32)
    whole = _weigh_photo(photo, class_ids, weights, law) if law.needs_photo else None
    total = whole.loss if whole else 0.0
    for block, values in photo.iter_blocks():
        ids, own = class_ids[block], weights[block]
        places, sums, log_p = _exponentiate(values, ids)
        if whole is None:
            pull = weigh_pixels(law, log_p, ids, own)
            total += pull.loss
        else:
            pull = whole._replace(of_pixels=whole.of_pixels[block])
        if pull.of_classes is None:
            values *= (pull.of_pixels / sums)[:, None]
        else:
            scored = (own > 0) / sums
            mean = pull.of_classes @ values / sums
            values *= (pull.of_pixels / sums - scored * mean)[:, None] + scored[:, None] * pull.of_classes[:, None]
        values.reshape(-1)[places] -= pull.of_pixels
        photo.add_gradient(block, values, gradient)
    return total, gradient.reshape(logits_hcw.shape)


def _weigh_photo(photo: _Photo, class_ids: npt.NDArray[np.uint8], weights: FloatArray, law: LossLaw) -> Pull:
    """Loss and gradient of a law that needs every pixel of the photo."""
    found, class_sums = np.empty(class_ids.shape, np.float32), 0.0
    for block, values in photo.iter_blocks():
        _, sums, found[block] = _exponentiate(values, class_ids[block])
        if "dice" in law.terms:
            values *= ((weights[block] > 0) / sums)[:, None]
            class_sums = class_sums + values.sum(axis=2).sum(axis=0, dtype=np.float64)
    return weigh_pixels(law, found, class_ids, weights, class_sums)


def _exponentiate(
    logits_rcw: FloatArray, class_ids: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.intp], FloatArray, FloatArray]:
    """Put the exponentials of some rows (R, C, W) in the place of their logits.

    Returns the places of the true classes in the flattened rows, the sums over the classes and the logarithms of the
    true classes' probabilities, all (R, W).
    """
    height, classes, width = logits_rcw.shape
    flat = logits_rcw.reshape(-1)
    places = (np.arange(height)[:, None] * classes + class_ids) * width + np.arange(width)
    found = flat[places]
    np.exp(logits_rcw, out=logits_rcw)
    sums = logits_rcw.sum(axis=1)
    return places, sums, found - np.log(sums)


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
            The loss by the law of ``loss``, NDArray (1,) float32; an NDArray (N, C, h, w) for each output.
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
            differentiate = partial(differentiate_photo, align_corners=self._align_corners, law=self._loss.law)
            with ThreadPoolExecutor(self._threads) as pool:
                found = list(pool.map(differentiate, wide, known_ids, pixel_weights * np.float32(share)))
            total += sum(part for part, _ in found)
            wide_gradient = mx.nd.array(np.stack([gradient for _, gradient in found]), ctx=output.context)
            gradient = wide_gradient if is_wide else mx.nd.dot(wide_gradient, columns)
            gradients.append(gradient.transpose((0, 2, 1, 3)).astype(output.dtype, copy=False))
        return mx.nd.array([total], ctx=outputs[0].context), gradients
