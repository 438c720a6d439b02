"""Masks for many pictures: files in, files out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gluonseg.data.decode import DEFAULT_MAX_PIXELS, read_image
from gluonseg.data.pairs import IMAGE_EXTENSIONS, list_images
from gluonseg.errors import DataError, ImageError
from gluonseg.files import write_bytes
from gluonseg.labels import UInt8Array
from gluonseg.predict.formats import compute_shares, encode_png
from gluonseg.predict.overlay import choose_card_colours, draw_overlay
from gluonseg.predict.predictor import Predictor
from gluonseg.predict.sheet import THUMBNAILS, ContactSheet
from gluonseg.text import join_names

_MASK, _OVERLAY = "{}.png", "{}_overlay.png"


@dataclass(frozen=True)
class Written:
    """One picture's outcome: the mask file, or why there is none. ``shares`` are of :func:`compute_shares`."""

    image: Path
    mask: Path | None
    problem: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)


def find_images(inputs: Iterable[Path]) -> list[Path]:
    """The pictures among files and folders (whose sub-folders are not entered), in order.

    Raises DataError when an input does not exist, a folder holds no picture, or two
    pictures would write the same mask.
    """
    found: list[Path] = []
    for path in inputs:
        if path.is_dir():
            pictures = list_images(path).wanted
            if not pictures:
                raise DataError(f"there are no pictures in {path} ({', '.join(IMAGE_EXTENSIONS)}, or JPEG inside)")
            found += pictures
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"{path} does not exist")
    stems = [path.stem for path in found]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise DataError(f"several pictures are called {join_names(twice)}, their masks would overwrite each other")
    return found


def write_png(pixels: UInt8Array, path: Path) -> None:
    """Write a grey (H, W) or RGB (H, W, 3) uint8 array as PNG, in one step."""
    write_bytes(path, encode_png(pixels))


def _check_targets(images: Sequence[Path], output: Path, names: Sequence[str]) -> None:
    """Raise DataError when a file would be written over a picture, or over another result."""
    pictures = {path.resolve(): path for path in images}
    seen: dict[Path, Path] = {}
    for path in images:
        for name in names:
            target = (output / name.format(path.stem)).resolve()
            if target in pictures:
                raise DataError(f"the picture {pictures[target]} would be overwritten; choose another output folder")
            if target in seen:
                raise DataError(f"{seen[target]} and {path} would both be written to {target.name}; rename one of them")
            seen[target] = path


def iter_written(
    predictor: Predictor,
    images: Sequence[Path],
    output: Path,
    *,
    overlays: bool = False,
    palette: str | None = None,
    shares: bool = False,
    sheet: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Iterator[Written]:
    """Write ``<name>.png`` (class ids, grey) for each picture, and with ``overlays`` ``<name>_overlay.png``.

    ``palette`` is one of :data:`gluonseg.data.palettes.PALETTES`, in place of the model's own colours.
    With ``shares`` each outcome has the shares of its classes. With ``sheet`` the last step is to write ``index.html``,
    see :mod:`gluonseg.predict.sheet`.

    A picture that cannot be read is reported in its turn, and the others are written. Raises DataError before anything
    is written when one file would overwrite another, and UserError when the palette has too few colours.
    """
    card = predictor.card
    colours = choose_card_colours(card, palette)
    names = [_MASK, *([_OVERLAY] if overlays else ()), *(THUMBNAILS if sheet else ())]
    _check_targets(images, output, names)
    output.mkdir(parents=True, exist_ok=True)
    page = ContactSheet(output, card, colours) if sheet else None
    for path in images:
        try:
            image = read_image(path, max_pixels=max_pixels, photo_range=card.photo_range)
        except ImageError as error:
            if page:
                page.leave_out(str(error))
            yield Written(path, None, str(error))
            continue
        mask = predictor.predict_mask(image)
        files = {"mask": output / _MASK.format(path.stem)}
        write_png(mask, files["mask"])
        if overlays:
            files["overlay"] = output / _OVERLAY.format(path.stem)
            write_png(draw_overlay(image, mask, colours), files["overlay"])
        found = compute_shares(mask, card.class_names) if shares or page else {}
        if page:
            page.add(path, image, mask, found, files)
        yield Written(path, files["mask"], shares=found)
    if page:
        page.write()
