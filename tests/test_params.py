"""The reader of .params files beside MXNet's own writer, and on broken files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gluonseg.compat  # noqa: F401
from gluonseg.errors import ModelError
from gluonseg.models.params import compute_size, convert_arrays, read_arrays, read_params, write_params
from measured import measure_bytes

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


def check_refused(folder: Path, content: bytes, match: str = "") -> None:
    path = write(folder, content)
    with pytest.raises(ModelError, match=f"^{path} is no usable MXNet parameter file: .*{match}"):
        read_arrays(path)


@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_what_mxnet_writes(tmp_path: Path, dtype: str) -> None:
    import mxnet as mx

    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    mx.nd.save(str(tmp_path / "x.params"), {"a.weight": mx.nd.from_numpy(values, zero_copy=False)})
    arrays = read_arrays(tmp_path / "x.params")
    assert list(arrays) == ["a.weight"]
    assert arrays["a.weight"].dtype == dtype
    np.testing.assert_array_equal(arrays["a.weight"], values)


def test_mxnet_writes_what_is_written_and_read_here(tmp_path: Path) -> None:
    import mxnet as mx

    arrays: dict[str, npt.NDArray[Any]] = {"layer.weight": MATRIX, "layer.count": VECTOR}
    mx.nd.save(str(tmp_path / "mxnet.params"), convert_arrays(arrays))
    write_params(arrays, tmp_path / "our.params")
    for name in ("mxnet.params", "our.params"):
        assert (tmp_path / name).read_bytes() == b"".join(PIECES)
        for read, wanted in zip(read_params(tmp_path / name).values(), arrays.values(), strict=True):
            assert read.dtype == wanted.dtype
            np.testing.assert_array_equal(read.asnumpy(), wanted)
    assert compute_size(arrays) == len(b"".join(PIECES))


@pytest.mark.parametrize("magic", [V1, V2, V3])
def test_every_version_and_a_file_saved_from_a_gpu(tmp_path: Path, magic: int) -> None:
    path = write(tmp_path, b"".join(pack_file({"w": pack_tensor(MATRIX, magic, device=(2, 3))})))
    np.testing.assert_array_equal(read_params(path)["w"].asnumpy(), MATRIX)


def test_old_prefixes_are_taken_off(tmp_path: Path) -> None:
    path = write(tmp_path, b"".join(pack_file({"arg:w": pack_tensor(MATRIX), "aux:mean": pack_tensor(VECTOR)})))
    assert list(read_arrays(path)) == ["w", "mean"]


def test_cut_at_and_inside_every_field(tmp_path: Path) -> None:
    for count, piece in enumerate(PIECES):
        whole = b"".join(PIECES[:count])
        check_refused(tmp_path, whole)
        check_refused(tmp_path, whole + piece[:-1])


@pytest.mark.parametrize(
    ("piece", "value", "match"),
    [
        (0, struct.pack("<Q", 0x113), "does not start like one"),
        (2, struct.pack("<Q", 2**63), "speaks of 9223372036854775808 tensors, at most 20000"),
        (3, struct.pack("<I", 2), "no tensor of MXNet"),
        (5, struct.pack("<i", 2**31 - 1), "2147483647 dimensions"),
        (6, struct.pack("<q", 2**62), "ends inside tensor 0 of 2"),
        (10, struct.pack("<i", 12), "data type number 12"),
        (21, struct.pack("<Q", 2**64 - 1), "has 18446744073709551615 bytes, at most 1024"),
        (22, b"\xff" * 12, "not UTF-8"),
        (24, b"layer.count" + b"more", "4 bytes follow"),
    ],
)
def test_wrong_field(tmp_path: Path, piece: int, value: bytes, match: str) -> None:
    check_refused(tmp_path, b"".join([*PIECES[:piece], value, *PIECES[piece + 1 :]]), match)


def test_same_name_twice(tmp_path: Path) -> None:
    check_refused(tmp_path, b"".join(pack_file({"arg:w": pack_tensor(MATRIX), "aux:w": pack_tensor(MATRIX)})), "same")


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.params", tmp_path):
        with pytest.raises(ModelError, match=f"{path} cannot be read"):
            read_params(path)


def test_what_is_claimed_is_not_allocated() -> None:
    head, large = PIECES[:6], struct.pack("<q", 1 << 60)
    contents = {
        "2^60 values": b"".join([*head, large, *PIECES[7:]]),
        "20 million tensors": struct.pack("<3Q", 0x112, 0, 20_000_000) + bytes(1 << 20),
    }
    setup = "from gluonseg.models.params import read_arrays"
    for taken in measure_bytes(setup, "read_arrays(path)", contents).values():
        assert "no usable MXNet parameter file" in taken.outcome
        assert taken.peak_mb < 64
