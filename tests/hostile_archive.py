"""Archives that no program writes: bombs, floods of members, names that lead out, members that are no files."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zlib
from collections.abc import Mapping
from typing import Any

from file_tree import add_member

BLOCK = 512
BEST = "model_best.params"


def pack(*members: tuple[str, bytes, dict[str, Any]], file_format: int = tarfile.GNU_FORMAT) -> bytes:
    """A model.tar.gz of (name, content, fields of the header)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=file_format) as archive:
        for name, content, fields in members:
            add_member(archive, name, content, **fields)
    return buffer.getvalue()


def build_header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **fields: Any) -> bytes:
    """The header of a member, whether or not its content follows."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    for field, value in fields.items():
        setattr(member, field, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def sign_header(header: bytes) -> bytes:
    """The header with the checksum that it must have."""
    total = 256 + sum(header[:148]) + sum(header[156:BLOCK])
    return header[:148] + b"%06o\0 " % total + header[156:]


def build_sparse(name: str, real_size: int) -> bytes:
    """An old GNU sparse member of no stored byte that unpacks to ``real_size``."""
    header = bytearray(build_header(name, 0, tarfile.GNUTYPE_SPARSE))
    header[386:410] = struct.pack(">BxxxQ", 0x80, 0) + struct.pack(">BxxxQ", 0x80, 0)
    header[483:495] = struct.pack(">BxxxQ", 0x80, real_size)
    return sign_header(bytes(header))


def build_sparse_pax(name: str, real_size: int) -> bytes:
    """The same in the way of pax: what the header of the file says is replaced."""
    record = f"GNU.sparse.size={real_size}\n"
    fields = f"{len(record) + 3} {record}22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n".encode()
    extended = build_header("././@PaxHeader", len(fields), tarfile.XHDTYPE)
    return extended + fields.ljust(BLOCK, b"\0") + build_header(name, BLOCK) + b"0\n".ljust(BLOCK, b"\0")


def build_negative(name: str, size: int) -> bytes:
    """A member whose length is below zero, which can lead back to itself without end."""
    header = bytearray(build_header(name))
    header[124:136] = size.to_bytes(12, "big", signed=True)
    return sign_header(bytes(header))


def build_repeated(start: bytes, piece: bytes, count: int) -> bytes:
    """``start`` and then ``count`` times ``piece``, as gzip; made in no time, however much it unpacks to."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = deflate.compress(start) + deflate.flush(zlib.Z_FULL_FLUSH)
    # After a full flush nothing refers back: the same bytes may come again.
    again = deflate.compress(piece) + deflate.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + first + again * count


def build_bombs() -> Mapping[str, bytes]:
    """Archives that are small and unpack to much, or to very many members."""
    zeros = bytes(1 << 20)
    long_name = build_header("././@LongLink", 1 << 30, tarfile.GNUTYPE_LONGNAME)
    digits = b"1" * 4096
    pax = build_header("././@PaxHeader", len(digits), tarfile.XHDTYPE) + digits
    return {
        "10 MB that unpack to 10 GB": build_repeated(build_header(BEST, 2 << 30), zeros, 10_240),
        "10 GB in a member that nobody reads": build_repeated(build_header("other.bin", 7 << 30), zeros, 10_240),
        "a name of 1 GB": build_repeated(long_name, zeros, 1024),
        "100 000 members": build_repeated(b"", build_header("x") * 100, 1000),
        "100 000 links": build_repeated(b"", build_header("x", 0, tarfile.SYMTYPE, linkname="y") * 100, 1000),
        "100 000 headers of one member": build_repeated(b"", build_header("p", 0, tarfile.XHDTYPE) * 100, 1000),
        "headers that take the square of their length": build_repeated(b"", pax + build_header("x"), 5000),
        "a million empty gzip files": gzip.compress(b"", mtime=0) * 1_000_000,
        "a sparse member of 1 TB": gzip.compress(build_sparse(BEST, 1 << 40) + bytes(2 * BLOCK)),
        "a sparse member of 1 TB, pax": gzip.compress(build_sparse_pax(BEST, 1 << 40) + bytes(2 * BLOCK)),
        "a member of length -256": gzip.compress(build_negative(BEST, -256) + bytes(2 * BLOCK)),
        "a member of length -512": gzip.compress(build_negative("other", -BLOCK) + bytes(2 * BLOCK)),
        "a long name of length -1024": gzip.compress(build_negative("././@LongLink", -2 * BLOCK) + bytes(2 * BLOCK)),
        "a member of 8 GB": gzip.compress(build_header(BEST, 8 << 30) + zeros),
        "zeros without end": build_repeated(b"", zeros, 100_000),
    }


def _link(kind: bytes, target: str) -> dict[str, Any]:
    return {"type": kind, "linkname": target}


REFUSED_MEMBERS: Mapping[str, tuple[tuple[str, bytes, dict[str, Any]], ...]] = {
    "up": (("../x", b"x", {}),),
    "up from a folder": (("code/../../x", b"x", {}),),
    "up to a file of a model": (("../model_best.params", b"x", {}),),
    "absolute": (("/tmp/x", b"x", {}),),
    "absolute, with slashes": (("//tmp/x", b"x", {}),),
    "drive": (("C:\\x", b"x", {}),),
    "backslashes": (("..\\..\\x", b"x", {}),),
    "dots of another alphabet": (("\uff0e\uff0e/x", b"x", {}),),
    "one sign for two dots": (("\u2025/x", b"x", {}),),
    "link to a file": ((BEST, b"", _link(tarfile.SYMTYPE, "/etc/passwd")),),
    "link out of another name": (("other", b"", _link(tarfile.SYMTYPE, "../../x")),),
    "hard link": ((BEST, b"", _link(tarfile.LNKTYPE, "/etc/passwd")),),
    "hard link to a link": (
        ("a", b"", _link(tarfile.SYMTYPE, "/etc/passwd")),
        (BEST, b"", _link(tarfile.LNKTYPE, "a")),
    ),
    "link that a member goes through": (
        ("code", b"", _link(tarfile.SYMTYPE, "/tmp")),
        ("code/x", b"x", {}),
    ),
    "device": ((BEST, b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5}),),
    "block device": (("disk", b"", {"type": tarfile.BLKTYPE, "devmajor": 8}),),
    "pipe": ((BEST, b"", {"type": tarfile.FIFOTYPE}),),
    "folder of a model's name": ((BEST, b"", {"type": tarfile.DIRTYPE}),),
    "twice": ((BEST, b"one", {}), (BEST, b"two", {})),
    "twice, with a dot": ((BEST, b"one", {}), (f"./{BEST}", b"two", {})),
}
