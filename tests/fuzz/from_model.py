"""What comes with a model: parameters, ONNX files, archives, cards and manifests."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .target import Check, Target, check, check_error


def _build_params() -> Check:
    """A parameter file; no more is allocated than it is long."""
    from gluonseg.errors import ModelError
    from gluonseg.models.params import iter_params, read_arrays

    path = Path(tempfile.mkdtemp(prefix="fuzz-")) / "x.params"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        try:
            arrays = read_arrays(path)
        except ModelError as error:
            check_error(error)
            return
        check(sum(array.nbytes for array in arrays.values()) <= len(data), "no more is read than there is")
        path.write_bytes(b"".join(iter_params(arrays)))
        again = read_arrays(path)
        kept = all(again[name].tobytes() == array.tobytes() for name, array in arrays.items())
        check(again.keys() == arrays.keys() and kept, "what is written is read again")

    return run


def _seed_params() -> Iterable[bytes]:
    import numpy as np

    from gluonseg.models.params import iter_params

    for kind in ("float32", "float16", "float64", "uint8", "int32", "int64"):
        yield b"".join(iter_params({"a.weight": np.ones((2, 3), kind), "b": np.zeros((1,), kind)}))
    yield b"".join(iter_params({}))
    old = struct.pack("<3Q", 0x112, 0, 1) + struct.pack("<Iiq3i", 0xF993FAC8, 1, 2, 1, 0, 0) + bytes(8)
    yield old + struct.pack("<2Q", 1, 5) + b"arg:x"


def _build_onnx() -> Check:
    """An ONNX file."""
    from gluonseg.errors import ModelError
    from gluonseg.onnx.file import check_structure

    def run(data: bytes) -> None:
        try:
            check_structure(data, "model")
        except ModelError as error:
            check_error(error)

    return run


def _seed_onnx() -> Iterable[bytes]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from hostile_onnx import CHANGES, ENCODINGS

    def build() -> onnx.ModelProto:
        import numpy as np

        nodes = [helper.make_node("Cast", ["image"], ["x"], to=1), helper.make_node("Conv", ["x", "w"], ["logits"])]
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("image", "logits")]
        weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
        graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    yield build().SerializeToString()
    for change, _ in CHANGES.values():
        model = build()
        change(model)
        yield model.SerializeToString()
    for encode, _ in ENCODINGS.values():
        yield encode(build().SerializeToString())


def _build_archive() -> Check:
    """A model.tar.gz, compressed here: what is written is inside the folder, and of known names."""
    import zlib

    from gluonseg.errors import ModelError
    from gluonseg.models.folder.archive import copy_members
    from gluonseg.models.folder.manifest import MODEL_FILES

    place = Path(tempfile.mkdtemp(prefix="fuzz-"))

    def run(data: bytes) -> None:
        archive = place / "model.tar.gz"
        # Half of the inputs are the compressed file itself, the others what is in it.
        deflate = zlib.compressobj(1, zlib.DEFLATED, 31)
        archive.write_bytes(data if data[:1] == b"\x1f" else deflate.compress(data) + deflate.flush())
        with tempfile.TemporaryDirectory(dir=place) as folder:
            try:
                copy_members(archive, MODEL_FILES, Path(folder))
            except ModelError as error:
                check_error(error)
            found = {path.name for path in Path(folder).rglob("*") if path.is_file() and not path.is_symlink()}
            everything = {path.name for path in Path(folder).rglob("*")}
            check(found == everything <= set(MODEL_FILES), "only files of a model are written")
        check({path.name for path in place.iterdir()} == {"model.tar.gz"}, "nothing is written elsewhere")

    return run


def _seed_archive() -> Iterable[bytes]:
    import gzip

    from hostile_archive import LENGTHS, REFUSED_MEMBERS, build_cut_sparse, build_header, pack

    for members in REFUSED_MEMBERS.values():
        yield gzip.decompress(pack(*members))
    yield pack(("model_best.params", b"x", {}))
    yield gzip.decompress(pack(("n" * 300, b"x", {}), ("model_card.json", b"{}", {})))
    yield build_header("hyperparams.json", 600) + bytes(1024)
    yield build_cut_sparse()
    for content in LENGTHS.values():
        yield gzip.decompress(content)[:5000]


def _build_card() -> Check:
    """A model card, and the manifest that lies beside it."""
    from gluonseg.errors import ModelError
    from gluonseg.models.folder.card import encode_card, parse_card
    from gluonseg.models.folder.manifest import parse_manifest

    def run(data: bytes) -> None:
        try:
            card = parse_card(data.decode("utf-8", "replace"), "card")
            check(all(name.isprintable() for name in card.class_names), "names are printable")
            check(encode_card(parse_card(encode_card(card), "card")) == encode_card(card), "a card is read again")
        except ModelError as error:
            check_error(error)
        try:
            parse_manifest(data, "manifest")
        except ModelError as error:
            check_error(error)

    return run


def _seed_card() -> Iterable[bytes]:
    from gluonseg.models.folder.card import build_card, encode_card

    good = json.loads(encode_card(build_card("fcn", "resnet-18", 2, prediction_scales=(0.5, 1.0))))
    yield json.dumps(good).encode()
    odd: tuple[Any, ...] = (None, -1, 1e300, "x", [], [[]], {}, True)
    for name in good:
        for value in odd:
            yield json.dumps({**good, name: value}).encode()
    yield json.dumps({"format_version": 1, "sha256": {"model.onnx": "0" * 64}}).encode()
    yield b'{"format_version": 1, "sha256": {"../x": 5}}'


PARAMS = Target(_build_params, _seed_params, ("gluonseg",), 1 << 12)
ONNX = Target(_build_onnx, _seed_onnx, ("gluonseg",), 1 << 12)
ARCHIVE = Target(_build_archive, _seed_archive, ("gluonseg", "tarfile"), 1 << 14)
CARD = Target(_build_card, _seed_card, ("gluonseg", "json"), 1 << 13)
