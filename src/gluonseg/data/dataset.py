"""Images and masks of one channel, decoded on demand and kept while they fit into memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from gluonseg.data.decode import DEFAULT_MAX_PIXELS, PhotoRange, read_image, read_label
from gluonseg.data.pairs import Pair
from gluonseg.errors import DataError
from gluonseg.labels import LabelMap, UInt8Array

DEFAULT_CACHE_BYTES = 1 << 30


def _size(array_hw: UInt8Array) -> str:
    return f"{array_hw.shape[1]}x{array_hw.shape[0]}"


class Dataset:
    """Pairs of one channel as arrays. Reading is thread-safe; decoded pairs are kept up to a budget."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        label_map: LabelMap,
        *,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        photo_range: PhotoRange = (),
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self.pairs = tuple(pairs)
        self._label_map = label_map
        self._max_pixels = max_pixels
        self._photo_range = photo_range
        self._free_bytes = cache_bytes
        self._cache: dict[int, tuple[UInt8Array, UInt8Array]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[UInt8Array, UInt8Array]:
        """Return the image (H, W, 3) uint8 RGB and its class ids (H, W) uint8, 255 = ignore.

        Raises ImageError when a file cannot be read any more, DataError when the mask has not the size of its image.
        The arrays are shared: do not write to them.
        """
        found = self._cache.get(index)
        if found is not None:
            return found
        pair = self.pairs[index]
        image = read_image(pair.image, max_pixels=self._max_pixels, photo_range=self._photo_range)
        class_ids = self._label_map.apply(read_label(pair.label, max_pixels=self._max_pixels))
        if image.shape[:2] != class_ids.shape:
            raise DataError(f"{pair.label} is {_size(class_ids)} (width x height), {pair.image} is {_size(image)}")
        self._keep(index, image, class_ids)
        return image, class_ids

    def _keep(self, index: int, image: UInt8Array, class_ids: UInt8Array) -> None:
        size = image.nbytes + class_ids.nbytes
        with self._lock:
            if index not in self._cache and size <= self._free_bytes:
                self._free_bytes -= size
                self._cache[index] = (image, class_ids)
