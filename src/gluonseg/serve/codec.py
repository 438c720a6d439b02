"""Bytes of a request to a picture, and a picture with its prediction to the bytes of an answer."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gluonseg.data.decode import REQUEST_FORMATS, decode_image
from gluonseg.errors import BadRequestError, ImageError, PayloadTooLargeError, UnsupportedImageError
from gluonseg.png import encode_png
from gluonseg.report.overlay import choose_colours, draw_overlay
from gluonseg.serve import media
from gluonseg.serve.recordio import Float32Array, encode_probabilities

UInt8Array = npt.NDArray[np.uint8]

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
MAX_RUNS = 2_000_000
"""Longest run-length mask that is written as JSON; a longer one has no advantage over a PNG."""


class Card(Protocol):
    """What an answer tells about the model."""

    @property
    def num_classes(self) -> int: ...
    @property
    def class_names(self) -> Sequence[str]: ...
    @property
    def colours(self) -> Sequence[tuple[int, int, int]]: ...


class MaskPredictor(Protocol):
    """A thread-safe model, see ``gluonseg.predict.predictor``."""

    @property
    def card(self) -> Card: ...
    def predict_mask(self, image_hwc: UInt8Array, /) -> UInt8Array: ...
    def predict_probabilities(self, image_hwc: UInt8Array, /) -> Float32Array: ...


def decode_request(body: bytes, max_pixels: int) -> UInt8Array:
    """Decode the body of a request, one JPEG or PNG file, to RGB (H, W, 3) uint8.

    Raises:
        BadRequestError: the body is empty.
        ImageError (and subclasses): damaged (400), larger than ``max_pixels`` (413), no JPEG or PNG (415).
    """
    if not body:
        raise BadRequestError("the body is empty: send the bytes of one JPEG or PNG file")
    try:
        return decode_image(body, "the picture in the body", formats=REQUEST_FORMATS, max_pixels=max_pixels)
    except UnsupportedImageError:
        if body.startswith(_SIGNATURES):
            raise ImageError("the picture in the body is damaged or cut short: send the whole file") from None
        raise UnsupportedImageError("the body is no JPEG or PNG picture: send the bytes of one such file") from None


def encode_mask_png(predictor: MaskPredictor, image_hwc: UInt8Array) -> bytes:
    """One channel, 8 bits, class ids: what both PIL and OpenCV read as such."""
    return encode_png(predictor.predict_mask(image_hwc))


def encode_overlay_png(predictor: MaskPredictor, image_hwc: UInt8Array) -> bytes:
    """The picture with the predicted classes drawn over it, each in a colour."""
    colours = choose_colours(predictor.card.class_names, predictor.card.colours)
    return encode_png(draw_overlay(image_hwc, predictor.predict_mask(image_hwc), colours))


def encode_npy(predictor: MaskPredictor, image_hwc: UInt8Array) -> bytes:
    """The mask (H, W) uint8 in numpy's file format. The format is written only, never read."""
    buffer = io.BytesIO()
    np.save(buffer, predictor.predict_mask(image_hwc), allow_pickle=False)
    return buffer.getvalue()


def compute_runs(mask_hw: UInt8Array) -> list[list[int]]:
    """Run-length code of a mask in row-major order: ``[class_id, length]`` pairs, lengths add up to H*W.

    Raises:
        PayloadTooLargeError: there are more than :data:`MAX_RUNS`.
    """
    flat = mask_hw.reshape(-1)
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    if len(starts) > MAX_RUNS:
        raise PayloadTooLargeError("the mask is too ragged for JSON: ask for Accept image/png")
    lengths = np.diff(starts, append=flat.size)
    runs: list[list[int]] = np.stack((flat[starts].astype(np.int64), lengths), axis=1).tolist()
    return runs


def describe_mask(mask_hw: UInt8Array, card: Card) -> dict[str, Any]:
    """Size, share of each class, and the run-length mask, as plain values."""
    counts = np.bincount(mask_hw.reshape(-1), minlength=card.num_classes)
    height, width = mask_hw.shape
    return {
        "width": width,
        "height": height,
        "classes": [
            {"id": class_id, "name": name, "share": round(int(counts[class_id]) / mask_hw.size, 6)}
            for class_id, name in enumerate(card.class_names)
        ],
        "mask": {"order": "row-major", "runs": compute_runs(mask_hw)},
    }


def encode_json(predictor: MaskPredictor, image_hwc: UInt8Array) -> bytes:
    """One line of JSON, see :func:`describe_mask`."""
    description = describe_mask(predictor.predict_mask(image_hwc), predictor.card)
    return json.dumps(description, separators=(",", ":")).encode() + b"\n"


def encode_recordio(predictor: MaskPredictor, image_hwc: UInt8Array) -> bytes:
    """The probabilities of all classes as RecordIO-protobuf."""
    return encode_probabilities(predictor.predict_probabilities(image_hwc))


Encoder = Callable[[MaskPredictor, UInt8Array], bytes]

ENCODERS: Mapping[str, Encoder] = MappingProxyType(
    {
        media.RECORDIO: encode_recordio,
        media.PROTOBUF: encode_recordio,
        media.PNG: encode_mask_png,
        media.OVERLAY: encode_overlay_png,
        media.JSON: encode_json,
        media.JSON_LINES: encode_json,
        media.NPY: encode_npy,
    }
)


def check_response_size(media_type: str, image_hwc: UInt8Array, num_classes: int, max_response_mb: int) -> None:
    """Refuse, before any computing, probabilities that would take more than ``max_response_mb`` MiB.

    Raises:
        PayloadTooLargeError: they would.
    """
    height, width = image_hwc.shape[:2]
    size_mb = 4 * num_classes * height * width / 2**20
    if ENCODERS[media_type] is encode_recordio and size_mb > max_response_mb:
        raise PayloadTooLargeError(
            f"the probabilities of {num_classes} classes for {width}x{height} pixels take {size_mb:.0f} MB, the limit "
            f"is {max_response_mb} MB: send a smaller picture or ask for Accept image/png"
        )


def encode_answer(media_type: str, predictor: MaskPredictor, image_hwc: UInt8Array) -> bytes:
    """Predict, and encode the answer as ``media_type``, one of ``media.RESPONSE_TYPES``."""
    return ENCODERS[media_type](predictor, image_hwc)
