"""What a client sends: requests, a body that is a picture, or none; what it gets, read back as a client reads it."""

from __future__ import annotations

import asyncio
import random
import re
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from .target import Check, Target, check, check_error

_INSIDE = re.compile(r"0x[0-9a-f]{6}|Traceback|site-packages|/usr/|/home/|/root/|\.py\b|object at|[Pp]illow|libjpeg")
_LENGTHS = re.compile(rb"^content-length[ \t]*:[ \t]*(.*?)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_CODING = re.compile(rb"^transfer-encoding[ \t]*:", re.IGNORECASE | re.MULTILINE)


class _Client:
    """Stands in for the socket of a client that sends ``pieces`` and then no more: nobody ever has to wait for it."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self.sent = 0

    def recv(self, _size: int) -> bytes:
        piece = self._pieces.pop(0) if self._pieces else b""
        self.sent += len(piece)
        return piece

    def setblocking(self, _flag: bool) -> None: ...

    def setsockopt(self, *_what: int) -> None: ...

    def close(self) -> None: ...


def _check_reply(error: BaseException) -> None:
    check_error(error)
    text = str(error)
    check(text.isprintable() and len(text) < 300, "a reply is one short line")
    check(not _INSIDE.search(text), f"a reply tells nothing of the inside: {text}")


def _cut(data: bytes) -> list[bytes]:
    """``data`` in up to five pieces, the same ones every time."""
    rng = random.Random(data)
    places = sorted(rng.randrange(len(data) + 1) for _ in range(4))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def _build_http() -> Check:
    """All that comes on a connection: requests one after the other, each taken whole or refused.

    However the network cuts it into pieces, the same comes of it; and where a body ends is never a matter of opinion,
    or what a proxy takes for a body could be taken for a request here.
    """
    from gunicorn.config import Config

    from gluonseg.errors import RequestError
    from gluonseg.serve.connection import Connection, Crowd, DisconnectedError, State
    from gluonseg.serve.request import HEADER_LIMIT, Head, check_size, read_body, read_head

    cfg, limit_mb = Config(), 1
    cfg.set("limit_request_field_size", HEADER_LIMIT)

    def check_request(data: bytes, start: int, end: int, head: Head, body: bytes) -> None:
        texts = (head.method, head.path, head.content_type or "", head.accept or "")
        check(not any(set(text) & set("\r\n\0") for text in texts), "no line ends inside a line")
        raw = data[start:end].partition(b"\r\n\r\n")[0]
        lengths, is_coded = _LENGTHS.findall(raw), bool(_CODING.search(raw))
        check(len(set(lengths)) <= 1 and not (lengths and is_coded), "one way to tell where the body ends")
        check(is_coded == (head.size is None), "chunks when they are announced, and then only")
        if head.size is None:
            check(len(body) <= limit_mb << 20 and len(body) < end - start, "the chunks' bytes are all of the body")
        else:
            check(head.size == int(lengths[0] if lengths else 0), "the length that was sent")
            check(body == data[start + len(raw) + 4 : end], "the body is what follows the head, to its length")

    async def read_all(data: bytes, pieces: Sequence[bytes]) -> list[object]:
        client: Any = _Client(pieces)
        connection = Connection(client, Crowd(1, limit_mb << 21), 1e9)
        found: list[object] = []
        end, is_last = 0, False
        try:
            while not is_last:
                start = end
                while not connection.buffer:
                    await connection.read()
                connection.enter(State.READING)
                head = await read_head(connection, cfg, ("127.0.0.1", 1))
                check_size(head.size, limit_mb)
                body = await read_body(connection, head, limit_mb)
                end = client.sent - len(connection.buffer)
                check_request(data, start, end, head, body)
                found.append((head, body))
                is_last = head.is_last
                connection.enter(State.IDLE)
        except RequestError as error:
            _check_reply(error)
            found.append(str(error))
        except DisconnectedError:
            found.append("has left")
        finally:
            connection.close()
        return found

    def run(data: bytes) -> None:
        whole, cut = (asyncio.run(read_all(data, pieces)) for pieces in ([data], _cut(data)))
        check(whole == cut, "the same, however it is cut into pieces")

    return run


def _seed_http() -> Iterable[bytes]:
    head = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    sized = head + b"Content-Type: image/png\r\nAccept: image/png\r\nContent-Length: 5\r\n\r\nabcde"
    ping = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield from (sized, ping, sized + ping + sized, ping[:-2], sized[:-2])
    yield chunked + b"5\r\nabcde\r\n0\r\n\r\n" + ping
    yield chunked + b"1;a=b\r\na\r\n00003 \r\nbcd\r\n0\r\nTrailer: x\r\n\r\n"
    yield from (chunked + size + b"\r\nabcde\r\n0\r\n\r\n" for size in (b"-5", b"0x5", b"5" * 20, b"fffffffffffffff0"))
    yield head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + ping
    yield head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"
    for size in (b"+5", b"-1", b"5, 5", b"9" * 30, b"\xb2"):
        yield head + b"Content-Length: " + size + b"\r\n\r\nabcde"
    for name in (b"identity", b"gzip, chunked", b"x"):
        yield head + b"Transfer-Encoding: " + name + b"\r\n\r\n0\r\n\r\n"
    yield head + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: 1\r\n\r\na" + ping
    yield b"POST /invocations HTTP/1.0\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nab" + ping
    yield b"OPTIONS * HTTP/1.1\r\n\r\nGET http://host/ping?a=b#c HTTP/1.1\r\n\r\n"
    yield b"GET /%00/../\xff HTTP/1.1\r\nA : b\r\n c: d\r\nE\tF: g\r\n\r\n"
    yield from (b"GET /ping HTTP/1.1\nHost: a\n\n", b"\r\n\r\n" + ping)
    yield from (b"\x16\x03\x01\x02\x00\x01\x00", b"PRI * HTTP/2.0\r\n\r\n")
    yield b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n"
    yield head + b"X: " + b"a" * 9000 + b"\r\n\r\n"


def _build_request() -> Check:
    """A body of a request, as a picture and as a mask."""
    from PIL import Image

    from gluonseg.data.decode import decode_image, decode_label, find_orientation
    from gluonseg.errors import ImageError, RequestError
    from gluonseg.serve.codec import decode_request

    Image.init()
    limit = 1 << 20

    def run(data: bytes) -> None:
        try:
            image = decode_request(data, limit)
            check(image.ndim == 3 and image.shape[2] == 3 and image.dtype == "uint8", "a picture is RGB, uint8")
            check(0 < image.shape[0] * image.shape[1] <= limit, "a picture is no larger than the limit")
        except (RequestError, ImageError) as error:
            _check_reply(error)
        for decode in (decode_image, decode_label):
            try:
                decode(data, "the file", max_pixels=limit)
            except ImageError as error:
                _check_reply(error)
        check(1 <= find_orientation(data) <= 8, "an orientation is 1 to 8")

    return run


def _seed_request() -> Iterable[bytes]:
    import numpy as np
    from PIL import Image

    from hostile_picture import OTHER_FORMATS, build_png
    from picture import draw_noise, encode_picture

    noise = draw_noise(9, 13)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield encode_picture(noise, "JPEG", exif=exif, comment=b"c", icc_profile=bytes(300))
    yield encode_picture(noise, "JPEG", progressive=True, subsampling=0)
    yield encode_picture(Image.fromarray(noise).convert("CMYK"), "JPEG")
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"):
        grey = np.asarray(Image.fromarray(noise).convert("L")).astype(np.uint16) * 200
        yield encode_picture(Image.fromarray(grey) if mode == "I;16" else Image.fromarray(noise).convert(mode))
    for file_format in ("GIF", "BMP", "TIFF", "WEBP"):
        yield encode_picture(noise, file_format)
    yield encode_picture(noise, "TIFF", compression="tiff_lzw")
    yield build_png(2, 1, depth=16, colour=2, rows=bytes(13))
    yield build_png(30_000, 30_000)
    yield from OTHER_FORMATS.values()


def _build_recordio() -> Check:
    """An answer as RecordIO, read back by the protobuf library; what is read back is what was written."""
    import numpy as np

    from gluonseg.serve.recordio import FRAMING, encode_probabilities
    from notebook_client import parse_probabilities, read_record

    def run(data: bytes) -> None:
        if len(data) < 5:
            return
        classes, height, width = (1 + byte % 16 for byte in data[:3])
        limit = FRAMING + 4 + int.from_bytes(data[3:5], "little")
        values = np.resize(np.frombuffer(data[5:] or b"\0", np.uint8), 4 * classes * height * width)
        probabilities = values.view("<f4").reshape(classes, height, width)
        found = parse_probabilities(read_record(encode_probabilities(probabilities, limit)))
        check(found.shape == probabilities.shape, "the shape comes back")
        check(found.astype("<f4").tobytes() == _quieten(probabilities), "every bit of every value comes back")

    def _quieten(values: Any) -> bytes:
        """Reading through Python's floats makes a signalling NaN a quiet one."""
        with np.errstate(invalid="ignore"):
            quiet: bytes = (values.astype("f8").astype("<f4") if np.isnan(values).any() else values).tobytes()
        return quiet

    return run


def _seed_recordio() -> Iterable[bytes]:
    yield from (bytes(5), b"\1\2\3\0\0" + struct.pack("<6f", *range(6)), b"\x0f\x0f\x0f\xff\xff" + bytes(range(256)))
    # The number that divides records, among the values.
    yield b"\3\3\3\1\0" + b"\x0a\x23\xd7\xce" * 9


HTTP = Target(_build_http, _seed_http, ("gluonseg", "gunicorn"))
REQUEST = Target(_build_request, _seed_request, ("gluonseg", "PIL"))
RECORDIO = Target(_build_recordio, _seed_recordio, ("gluonseg", "notebook_client"), 1 << 10)
