"""The reader of .params files beside MXNet's own writer, and on files that are broken or of no network."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gluonseg.compat  # noqa: F401
from gluonseg.errors import ModelError
from gluonseg.models.folder.artifact import BEST_FILE
from gluonseg.models.params import compute_size, convert_arrays, iter_params, read_arrays, read_params, write_params
from gluonseg.predict.predictor import load_predictor
from measured import measure_bytes
from picture import draw_noise

DTYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64")
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA


def pack_tensor(values: np.ndarray, magic: int = V2, device: tuple[int, int] = (1, 0)) -> list[bytes]:
    """Return the fields of one tensor, each as its own piece."""
    pieces = [struct.pack("<I", magic)]
    if magic != V1:
        pieces.append(struct.pack("<i", 0))
    pieces.append(struct.pack("<i", values.ndim))
    pieces += [struct.pack("<q", size) for size in values.shape]
    pieces += [struct.pack("<i", number) for number in device]
    pieces.append(struct.pack("<i", DTYPES.index(values.dtype.name)))
    return [*pieces, values.tobytes()]


def pack_file(tensors: dict[str, list[bytes]]) -> list[bytes]:
    names = [name.encode() for name in tensors]
    pieces = [struct.pack("<Q", number) for number in (0x112, 0, len(tensors))]
    for tensor in tensors.values():
        pieces += tensor
    pieces.append(struct.pack("<Q", len(names)))
    for name in names:
        pieces += [struct.pack("<Q", len(name)), name]
    return pieces


MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)
VECTOR = np.array([7, 8], dtype=np.int64)
PIECES = pack_file({"layer.weight": pack_tensor(MATRIX), "layer.count": pack_tensor(VECTOR)})


def write(folder: Path, content: bytes) -> Path:
    path = folder / "x.params"
    path.write_bytes(content)
    return path


def check_refused(folder: Path, content: bytes, match: str = "no usable MXNet parameter file") -> None:
    path = write(folder, content)
    started = time.perf_counter()
    with pytest.raises(ModelError, match=match) as caught:
        read_arrays(path)
    assert time.perf_counter() - started < 1
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_what_mxnet_writes(tmp_path: Path, dtype: str) -> None:
    import mxnet as mx

    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    mx.nd.save(str(tmp_path / "x.params"), {"a.weight": mx.nd.from_numpy(values, zero_copy=False)})
    arrays = read_arrays(tmp_path / "x.params")
    assert list(arrays) == ["a.weight"]
    assert arrays["a.weight"].dtype == dtype
    np.testing.assert_array_equal(arrays["a.weight"], values)


def test_mxnet_reads_what_is_written_and_both_agree(tmp_path: Path) -> None:
    import mxnet as mx

    path = tmp_path / "new" / "x.params"
    write_params({"a.weight": MATRIX, "b": VECTOR}, path)
    theirs, ours = mx.nd.load(str(path)), read_params(path)
    assert list(theirs) == list(ours) == ["a.weight", "b"]
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours[name].asnumpy(), theirs[name].asnumpy())
    assert [entry.name for entry in path.parent.iterdir()] == ["x.params"]


def test_hand_packed_file_is_the_one_mxnet_writes(tmp_path: Path) -> None:
    import mxnet as mx

    arrays: dict[str, npt.NDArray[Any]] = {"layer.weight": MATRIX, "layer.count": VECTOR}
    mx.nd.save(str(tmp_path / "mxnet.params"), convert_arrays(arrays))
    write_params(arrays, tmp_path / "our.params")
    for name in ("mxnet.params", "our.params"):
        assert (tmp_path / name).read_bytes() == b"".join(PIECES)
    assert compute_size(arrays) == len(b"".join(PIECES))


@pytest.mark.parametrize("magic", [V1, V2, V3])
def test_every_version_and_a_file_saved_from_a_gpu(tmp_path: Path, magic: int) -> None:
    path = write(tmp_path, b"".join(pack_file({"w": pack_tensor(MATRIX, magic, device=(2, 3))})))
    np.testing.assert_array_equal(read_params(path)["w"].asnumpy(), MATRIX)


def test_old_prefixes_are_taken_off(tmp_path: Path) -> None:
    path = write(tmp_path, b"".join(pack_file({"arg:w": pack_tensor(MATRIX), "aux:mean": pack_tensor(VECTOR)})))
    assert list(read_arrays(path)) == ["w", "mean"]


def test_arrays_can_be_changed(tmp_path: Path) -> None:
    array = read_arrays(write(tmp_path, b"".join(PIECES)))["layer.weight"]
    array += 1
    np.testing.assert_array_equal(array, MATRIX + 1)


def test_cut_at_and_inside_every_field(tmp_path: Path) -> None:
    for count, piece in enumerate(PIECES):
        whole = b"".join(PIECES[:count])
        check_refused(tmp_path, whole)
        check_refused(tmp_path, whole + piece[:-1])


def test_any_byte_turned_over_never_does_harm(tmp_path: Path) -> None:
    whole = b"".join(PIECES)
    for index in range(len(whole)):
        content = whole[:index] + bytes([whole[index] ^ 0xFF]) + whole[index + 1 :]
        with suppress(ModelError):
            assert sum(array.nbytes for array in read_arrays(write(tmp_path, content)).values()) <= len(content)


@pytest.mark.parametrize(
    ("piece", "value", "match"),
    [
        (0, struct.pack("<Q", 0x113), "does not start like one"),
        (2, struct.pack("<Q", 2**63), "speaks of 9223372036854775808 tensors, at most 20000"),
        (2, struct.pack("<Q", 3), "starts with"),
        (3, struct.pack("<I", 2), "no tensor of MXNet"),
        (4, struct.pack("<i", 1), "sparse"),
        (5, struct.pack("<i", 0), "0 dimensions"),
        (5, struct.pack("<i", -1), "-1 dimensions"),
        (5, struct.pack("<i", 2**31 - 1), "2147483647 dimensions"),
        (6, struct.pack("<q", -2), "shape"),
        (6, struct.pack("<q", 0), "shape"),
        (6, struct.pack("<q", 2**62), "ends inside tensor 0 of 2"),
        (10, struct.pack("<i", 12), "data type number 12"),
        (10, struct.pack("<i", -1), "data type number -1"),
        (20, struct.pack("<Q", 0), "2 tensors and 0 names"),
        (21, struct.pack("<Q", 2**64 - 1), "has 18446744073709551615 bytes, at most 1024"),
        (21, struct.pack("<Q", 1000), "ends inside name 0"),
        (22, b"\xff" * 12, "not UTF-8"),
        (24, b"layer.count" + b"more", "4 bytes follow"),
    ],
)
def test_wrong_field(tmp_path: Path, piece: int, value: bytes, match: str) -> None:
    check_refused(tmp_path, b"".join([*PIECES[:piece], value, *PIECES[piece + 1 :]]), match)


def test_product_of_sizes_cannot_wrap_around(tmp_path: Path) -> None:
    shape = [struct.pack("<q", 2**32), struct.pack("<q", 2**32)]
    check_refused(tmp_path, b"".join([*PIECES[:6], *shape, *PIECES[8:]]), "ends inside tensor 0")


def test_same_name_twice(tmp_path: Path) -> None:
    check_refused(tmp_path, b"".join(pack_file({"arg:w": pack_tensor(MATRIX), "aux:w": pack_tensor(MATRIX)})), "same")


@pytest.mark.parametrize(
    "content",
    [b"", bytes(100), b"PK\x03\x04" * 50, b"\x12\x01" + b"\xff" * 100],
    ids=["empty", "zeros", "zip", "odd header"],
)
def test_files_of_another_kind(tmp_path: Path, content: bytes) -> None:
    check_refused(tmp_path, content)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.params", tmp_path):
        with pytest.raises(ModelError, match="is not a file"):
            read_params(path)


def test_nothing_is_left_behind_when_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelError, match="cannot be written"):
        write_params({"a": MATRIX}, tmp_path / "file" / "x.params")
    (tmp_path / "x.params").mkdir()
    with pytest.raises(ModelError, match="cannot be written"):
        write_params({"a": MATRIX}, tmp_path / "x.params")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "x.params"]


Arrays = dict[str, npt.NDArray[Any]]
HEADER = 24
"""Bytes before the first tensor."""


@pytest.fixture(scope="module")
def arrays(trained_model: Path) -> Arrays:
    return read_arrays(trained_model / BEST_FILE)


def _pack(arrays: Arrays) -> bytes:
    return b"".join(iter_params(arrays))


def _change(name: str, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, name: change(arrays[name])}


def _drop(name: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {other: array for other, array in arrays.items() if other != name}


def _grow(arrays: Arrays) -> Arrays:
    weight = arrays["head.block.4.weight"]
    head = {"head.block.4.weight": np.zeros((300, *weight.shape[1:]), np.float32)}
    return {**arrays, **head, "head.block.4.bias": np.zeros(300, np.float32)}


NETWORKS: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "a tensor is missing": (_drop("layer3.1.bn2.gamma"), r"layer3\.1\.bn2\.gamma"),
    "a tensor too many": (lambda arrays: {**arrays, "head.x.bias": np.zeros(3, np.float32)}, r"head\.x\.bias is not"),
    "NaN": (_change("layer2.0.conv1.weight", lambda array: array * np.nan), r"finite in layer2\.0\.conv1\.weight"),
    "bytes": (_change("bn1.gamma", lambda array: array.astype(np.uint8)), r"bn1\.gamma \(uint8\)"),
    "another shape": (_change("bn1.beta", lambda array: np.zeros(65, np.float32)), r"bn1\.beta has shape \(65,\)"),
    "channels that do not fit": (
        _change("layer1.0.conv1.weight", lambda array: array[:, :9]),
        r"model\.onnx cannot be (used|run)",
    ),
    "300 classes": (_grow, "has 300 classes; 2 to 254"),
    "a name of a terminal": (lambda arrays: {**arrays, "\x1b[31m\n": np.zeros(3, np.float32)}, r"\\x1b\[31m\\n is"),
}


@pytest.mark.parametrize(("change", "words"), NETWORKS.values(), ids=NETWORKS)
def test_parameters_of_no_network(
    arrays: Arrays, tmp_path: Path, change: Callable[[Arrays], Arrays], words: str
) -> None:
    (tmp_path / BEST_FILE).write_bytes(_pack(change(arrays)))
    with pytest.raises(ModelError, match=words):
        load_predictor(tmp_path).predict_mask(draw_noise(16, 16))


FILES: dict[str, Callable[[bytes], bytes]] = {
    "2^60 values": lambda content: content[: HEADER + 12] + struct.pack("<q", 1 << 60) + content[HEADER + 20 :],
    "2^31 dimensions": lambda content: content[: HEADER + 8] + b"\xff\xff\xff\x7f" + content[HEADER + 12 :],
    "pickle": lambda _: b"\x80\x04cos\nsystem\n(S'false'\ntR.",
    "20 million tensors": lambda _: struct.pack("<3Q", 0x112, 0, 20_000_000) + bytes(1 << 20),
}


def test_what_is_claimed_is_not_allocated(arrays: Arrays) -> None:
    small = _pack({name: arrays[name] for name in ("bn1.gamma", "bn1.beta")})
    contents = {name: change(small) for name, change in FILES.items()}
    setup = "from gluonseg.models.params import read_arrays"
    for taken in measure_bytes(setup, "read_arrays(path)", contents).values():
        assert taken.outcome.startswith("ModelError: ")
        assert "no usable MXNet parameter file" in taken.outcome
        assert (taken.seconds, taken.peak_mb) < (5, 64)


def test_half_precision(arrays: Arrays, trained_model: Path, tmp_path: Path) -> None:
    picture = draw_noise(24, 32)
    (tmp_path / BEST_FILE).write_bytes(_pack({name: array.astype(np.float16) for name, array in arrays.items()}))
    wanted = load_predictor(trained_model).predict_probabilities(picture)
    np.testing.assert_allclose(load_predictor(tmp_path).predict_probabilities(picture), wanted, atol=0.02)
