"""The contact sheet of a prediction: one page with each picture, the same under its mask, and its legend.

The thumbnails lie beside the page, in a folder of their own: a browser loads those that are looked at. Inside the page
those of 600 photos would make it 20 MB large.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from gluonseg.data.decode import find_orientation, read_bytes, turn_upright
from gluonseg.files import write_text
from gluonseg.labels import UInt8Array
from gluonseg.models.folder.card import ModelCard
from gluonseg.predict.overlay import UNTINTED, Colour, draw_overlay
from gluonseg.text import escape_line

PAGE_FILE = "index.html"
THUMBNAILS = ("thumbnails/{}_photo.jpg", "thumbnails/{}_overlay.jpg")
"""The files of a picture, whose mask has the name in the braces."""
MAX_SIDE = 320
"""Long side of a thumbnail, in pixels."""
MAX_CLASSES, LEAST_SHARE = 8, 0.001
"""A legend has at most so many classes, those with at least this share of the picture; of the others it has the sum."""
_QUALITY = 80


@dataclass(frozen=True)
class _Entry:
    """A picture on the page; ``files`` are links by their words, ``legend`` has names, colours and shares."""

    name: str
    thumbnails: Sequence[str]
    size: tuple[int, int]
    is_turned: bool
    legend: Sequence[tuple[str, Colour, float]]
    num_others: int
    files: Mapping[str, str]


class ContactSheet:
    """The page in ``folder``. The thumbnails of a picture are written when it is added, the page at the end."""

    def __init__(self, folder: Path, card: ModelCard, colours: Sequence[Colour]) -> None:
        self._folder, self._card, self._colours = folder, card, colours
        self._entries: list[_Entry] = []
        self._left_out: list[str] = []

    def leave_out(self, problem: str) -> None:
        """Tell on the page of a picture that has no mask."""
        self._left_out.append(escape_line(problem))

    def add(
        self,
        path: Path,
        image_hwc: UInt8Array,
        mask_hw: UInt8Array,
        shares: Mapping[str, float],
        files: Mapping[str, Path],
    ) -> None:
        """Add a picture (H, W, 3) uint8 with its class ids (H, W); ``files`` of the folder are linked by their words.

        The picture is shown upright by its EXIF orientation, and its mask so too; the files keep the stored pixels.
        """
        orientation = find_orientation(read_bytes(path))
        photo = Image.fromarray(image_hwc)
        photo.thumbnail((MAX_SIDE, MAX_SIDE))
        mask = Image.fromarray(mask_hw).resize(photo.size, Image.Resampling.NEAREST)
        photo, mask = turn_upright(photo, orientation), turn_upright(mask, orientation)
        overlay = Image.fromarray(draw_overlay(np.asarray(photo), np.asarray(mask), self._colours))
        thumbnails = [self._folder / name.format(path.stem) for name in THUMBNAILS]
        for target, picture in zip(thumbnails, (photo, overlay), strict=True):
            target.parent.mkdir(exist_ok=True)
            picture.save(target, quality=_QUALITY)
        colours = dict(zip(self._card.class_names, self._colours, strict=True))
        shown = [(name, colours[name], share) for name, share in shares.items() if share >= LEAST_SHARE][:MAX_CLASSES]
        self._entries.append(
            _Entry(
                name=escape_line(path.name),
                thumbnails=[self._link(target) for target in thumbnails],
                size=photo.size,
                is_turned=orientation != 1,
                legend=shown,
                num_others=len(shares) - len(shown),
                files={word: self._link(file) for word, file in files.items()},
            )
        )

    def _link(self, path: Path) -> str:
        """The address of a file in the folder, from the page."""
        return quote(os.fsencode(path.relative_to(self._folder)))

    def write(self) -> None:
        """Write the page."""
        from jinja2 import Environment, PackageLoader, StrictUndefined

        loader = PackageLoader("gluonseg.predict", "template")
        environment = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        card = self._card
        page = environment.get_template("sheet.html").render(
            model=f"{card.title}, {card.num_classes} classes",
            entries=self._entries,
            left_out=self._left_out,
            untinted=UNTINTED,
            has_untinted=UNTINTED in self._colours,
        )
        write_text(self._folder / PAGE_FILE, page)
