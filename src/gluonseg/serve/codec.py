"""From the bytes of a request to a picture, and from a picture to the bytes of the answer."""

from __future__ import annotations

import io
import json
from typing import Protocol

import numpy as np

from gluonseg.data.decode import REQUEST_FORMATS, PhotoRange, decode_image
from gluonseg.errors import BadRequestError, PayloadTooLargeError, UnsupportedImageError
from gluonseg.labels import UInt8Array
from gluonseg.models.folder.card import ModelCard
from gluonseg.predict.formats import describe_mask, encode_png
from gluonseg.predict.overlay import choose_card_colours, draw_overlay
from gluonseg.predict.recordio import Float32Array, encode_probabilities
from gluonseg.serve import media


class MaskPredictor(Protocol):
    """A model, see ``gluonseg.predict.predictor``."""

    @property
    def card(self) -> ModelCard: ...
    def predict_mask(self, image_hwc: UInt8Array, /) -> UInt8Array: ...
    def predict_confidence(self, image_hwc: UInt8Array, /) -> tuple[UInt8Array, UInt8Array]: ...
    def predict_probabilities(self, image_hwc: UInt8Array, /) -> Float32Array: ...


def decode_request(body: bytes, max_pixels: int, photo_range: PhotoRange = ()) -> UInt8Array:
    """Decode the body of a request, one JPEG or PNG file, to RGB (H, W, 3) uint8, as the model's training did.

    Raises:
        BadRequestError: the body is empty.
        ImageError (and subclasses): damaged (400), larger than ``max_pixels`` (413), no JPEG or PNG (415).
    """
    if not body:
        raise BadRequestError("the body is empty: send the bytes of one JPEG or PNG file")
    try:
        name, formats = "the picture in the body", REQUEST_FORMATS
        return decode_image(body, name, formats=formats, max_pixels=max_pixels, photo_range=photo_range)
    except UnsupportedImageError:
        raise UnsupportedImageError("the body is no JPEG or PNG picture: send the bytes of one such file") from None


def compute_answer(media_type: str, predictor: MaskPredictor, image_hwc: UInt8Array, max_response_mb: int) -> bytes:
    """Predict, and encode the mask or the probabilities as ``media_type``, one of ``media.RESPONSE_TYPES``.

    Raises:
        PayloadTooLargeError: probabilities would take more than ``max_response_mb`` MiB, told before they are computed.
    """
    card, (height, width) = predictor.card, image_hwc.shape[:2]
    if media_type in (media.RECORDIO, media.PROTOBUF):
        size_mb = 4 * card.num_classes * height * width / 2**20
        if size_mb > max_response_mb:
            raise PayloadTooLargeError(
                f"the probabilities of {card.num_classes} classes for {width}x{height} pixels take {size_mb:.0f} MB, "
                f"the limit is {max_response_mb} MB: send a smaller picture or ask for Accept image/png"
            )
        return encode_probabilities(predictor.predict_probabilities(image_hwc))
    if media_type == media.CONFIDENCE:
        mask_hw, confidence_hw = predictor.predict_confidence(image_hwc)
        return encode_png(np.dstack((mask_hw, confidence_hw, np.zeros_like(mask_hw))))
    mask_hw = predictor.predict_mask(image_hwc)
    if media_type == media.PNG:
        return encode_png(mask_hw)
    if media_type == media.OVERLAY:
        return encode_png(draw_overlay(image_hwc, mask_hw, choose_card_colours(card)))
    if media_type == media.NPY:
        buffer = io.BytesIO()
        np.save(buffer, mask_hw, allow_pickle=False)
        return buffer.getvalue()
    return json.dumps(describe_mask(mask_hw, card), separators=(",", ":")).encode() + b"\n"
