"""Readers of bytes from outside, given any bytes: each returns a value that is checked, or raises a documented error.

Here they are given a few seeds and random changes of them; ``tests/fuzz.py TARGET`` looks further.
"""

from __future__ import annotations

import gzip
import json
import random
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from gluonseg.data.decode import decode_image, decode_label
from gluonseg.data.label_channel import parse_class_names
from gluonseg.errors import FAILURE_LIMIT, UserError, describe_failure
from gluonseg.files import parse_json_object
from gluonseg.hyperparameters import get_specs, parse_hyperparameters
from gluonseg.labels import parse_label_map
from gluonseg.models.folder.archive import copy_members
from gluonseg.models.folder.card import build_card, encode_card, parse_card
from gluonseg.models.folder.manifest import MODEL_FILES, parse_manifest
from gluonseg.models.params import iter_params, read_arrays
from gluonseg.onnx.file import check_structure
from gluonseg.serve.codec import decode_request
from hostile_archive import LENGTHS, REFUSED_MEMBERS, build_cut_sparse, pack
from hostile_onnx import CHANGES, ENCODINGS
from hostile_picture import OTHER_FORMATS, build_png
from picture import draw_noise, encode_picture

MAX_PIXELS = 1 << 20


class Target(NamedTuple):
    """``read`` takes any bytes, and raises ``UserError`` only; ``seeds`` are inputs to begin with."""

    read: Callable[[bytes], object]
    seeds: Sequence[bytes]


def run(target: Target, data: bytes) -> None:
    """Read ``data``, and check the text of the error that it may end in, wherever that is shown."""
    try:
        target.read(data)
    except UserError as error:
        text, code = describe_failure(error)
        assert code == 2
        assert len(text) <= FAILURE_LIMIT
        assert all(line.isprintable() for line in text.split("\n"))


def _read_request(data: bytes) -> None:
    image = decode_request(data, MAX_PIXELS)
    assert image.shape[0] * image.shape[1] <= MAX_PIXELS
    decode_image(data, "the file", max_pixels=MAX_PIXELS)


def _read_hyperparameters(data: bytes) -> None:
    try:
        raw = parse_json_object(data)
    except ValueError:
        return
    found = parse_hyperparameters(raw)
    assert parse_hyperparameters(found.to_strings()) == found


def _read_params(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.params"
        path.write_bytes(data)
        arrays = read_arrays(path)
        assert sum(array.nbytes for array in arrays.values()) <= len(data)
        path.write_bytes(b"".join(iter_params(arrays)))
        assert read_arrays(path).keys() == arrays.keys()


def _read_archive(data: bytes) -> None:
    """``data`` is the archive, or what is compressed in it. Only files of a model are written, into the folder."""
    with tempfile.TemporaryDirectory() as place:
        archive, folder = Path(place) / "model.tar.gz", Path(place) / "folder"
        folder.mkdir()
        archive.write_bytes(data if data[:1] == b"\x1f" else gzip.compress(data, 1))
        try:
            copy_members(archive, MODEL_FILES, folder)
        finally:
            assert {path.name for path in Path(place).rglob("*")} <= {*MODEL_FILES, archive.name, folder.name}


def _read_card(data: bytes) -> None:
    card = parse_card(data.decode("utf-8", "replace"), "card")
    assert encode_card(parse_card(encode_card(card), "card")) == encode_card(card)


def _build_model() -> onnx.ModelProto:
    nodes = [helper.make_node("Cast", ["image"], ["x"], to=1), helper.make_node("Conv", ["x", "w"], ["logits"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("image", "logits")]
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    return helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], [weight]), ir_version=8)


def _list_models() -> Iterable[bytes]:
    good = _build_model().SerializeToString()
    yield good
    for change, _ in CHANGES.values():
        model = _build_model()
        change(model)
        yield model.SerializeToString()
    yield from (encode(good) for encode, _ in ENCODINGS.values())


def _list_archives() -> Iterable[bytes]:
    yield from (gzip.decompress(pack(*members)) for members in REFUSED_MEMBERS.values())
    yield from (gzip.decompress(content)[:5000] for content in LENGTHS.values())
    yield from (gzip.decompress(pack(("model_card.json", b"{}", {}))), build_cut_sparse())


def _list_pictures() -> Iterable[bytes]:
    noise = Image.fromarray(draw_noise(9, 13))
    yield encode_picture(noise, "JPEG", progressive=True, comment=b"c", exif=b"Exif\0\0II*\0")
    yield from (encode_picture(noise.convert(mode)) for mode in ("RGB", "RGBA", "L", "P", "1"))
    yield from (encode_picture(noise, file_format) for file_format in ("GIF", "TIFF", "WEBP"))
    yield from (build_png(2, 1, depth=16, colour=2, rows=bytes(13)), build_png(30_000, 30_000), *OTHER_FORMATS.values())


def _list_hyperparameters() -> Iterable[bytes]:
    for name, one in get_specs().items():
        values: tuple[str, ...] = (one.list_choices()[0] if one.choices else "2", "1, 2", "", "nan")
        yield from (json.dumps({"num_classes": "3", name: value}).encode() for value in values)
    yield b'{"num_classes": "\\ud800", "epochs": {"a": [null, true, 1e999]}}'


def _list_cards() -> Iterable[bytes]:
    good = json.loads(encode_card(build_card("fcn", "resnet-18", 2, prediction_scales=(0.5, 1.0))))
    for name in good:
        values: tuple[Any, ...] = (None, -1, 1e300, [[]], {})
        yield from (json.dumps({**good, name: value}).encode() for value in values)


TARGETS: Mapping[str, Target] = {
    "request": Target(_read_request, list(_list_pictures())),
    "mask": Target(lambda data: decode_label(data, "the file", max_pixels=MAX_PIXELS), list(_list_pictures())),
    "label_map": Target(
        lambda data: parse_label_map(data, "label map"),
        (b'{"scale": 3}', b'{"map": {"0": 5, "255": 7}}', b'{"scale": "3", "scale": 4}', b'{"map": {"0": 1e400}}'),
    ),
    "class_names": Target(lambda data: parse_class_names(data, "names"), (b'["a", "b"]', b"NaN", b"\xef\xbb\xbf[]")),
    "hyperparameters": Target(_read_hyperparameters, list(_list_hyperparameters())),
    "params": Target(
        _read_params,
        [b"".join(iter_params({"a": np.ones((2, 3), kind), "b": np.zeros(1)})) for kind in ("float32", "uint8")],
    ),
    "onnx": Target(lambda data: check_structure(data, "model"), list(_list_models())),
    "archive": Target(_read_archive, list(_list_archives())),
    "card": Target(_read_card, list(_list_cards())),
    "manifest": Target(
        lambda data: parse_manifest(data, "manifest"),
        (b'{"format_version": 1, "sha256": {"model.onnx": "0"}}', b'{"format_version": 1, "sha256": {"../x": 5}}'),
    ),
}


def _change(seed: bytes, rng: random.Random) -> bytes:
    """Replace a few pieces of ``seed`` by others, of other lengths."""
    content = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(content) + 1)
        piece = rng.choice([b"", b"\xff" * 4, b"\0" * 4, rng.randbytes(3), content[at : at + 32]])
        content[at : at + rng.randint(0, 8)] = piece
    return bytes(content)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_random_changes_of_them(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seeds, rng = TARGETS[name].seeds, random.Random(name)
    for data in [*seeds, *(_change(rng.choice(seeds), rng) for _ in range(30))]:
        run(TARGETS[name], data)
