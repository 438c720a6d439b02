"""Archives that no program writes: wrong lengths, and members that are no files."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from typing import Any

from file_tree import add_member

BEST = "model_best.params"


def pack(*members: tuple[str, bytes, dict[str, Any]]) -> bytes:
    """A model.tar.gz of (name, content, fields of the header)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content, fields in members:
            add_member(archive, name, content, **fields)
    return buffer.getvalue()


def build_header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    """The header of a member, whether or not its content follows."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def build_cut_sparse() -> bytes:
    """A sparse member whose header says that more of it follows; nothing does. Found by fuzzing."""
    header = bytearray(build_header(BEST, 0, tarfile.GNUTYPE_SPARSE))
    header[482] += 1
    header[0] -= 1  # keeps the checksum
    return bytes(header) + b"0" * 161


LENGTHS: Mapping[str, bytes] = {
    "a member of 8 GB": gzip.compress(build_header(BEST, 8 << 30)),
    "a member of length -512": gzip.compress(build_header("other", -512)),
    "a name of 1 GB": gzip.compress(build_header("././@LongLink", 1 << 30, tarfile.GNUTYPE_LONGNAME)),
}
"""Archives whose headers claim too much."""

REFUSED_MEMBERS: Mapping[str, tuple[tuple[str, bytes, dict[str, Any]], ...]] = {
    "link": ((BEST, b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),),
    "hard link": ((BEST, b"", {"type": tarfile.LNKTYPE, "linkname": "a"}),),
    "device": ((BEST, b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5}),),
    "sparse file": ((BEST, b"", {"type": tarfile.GNUTYPE_SPARSE}),),
}
