"""Open plain and compressed files as bytes or as UTF-8 text."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, AnyStr

from staff.errors import DataError

BOM = b"\xef\xbb\xbf"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
CHUNK_BYTES = 1 << 20
PACKED_BYTES = 1 << 13  # of a small stream, what is behind it is copied once more
ROW_LIMIT = 1 << 25  # bytes or characters of one row: a small file can unpack to terabytes


def _open_zst(path: Path, _: str) -> IO[bytes]:
    """By Arrow, which unlike zstandard's reader reads every frame and notices a missing end."""
    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(str(path), compression="zstd"), CHUNK_BYTES)


class _Streams(io.RawIOBase):
    """What compressed streams, one behind another, unpack to.

    The readers of bz2 and lzma take a later stream that is damaged at its start for the end.
    """

    def __init__(self, path: Path, unpacker: Callable[[], Any]) -> None:
        self._file = path.open("rb")
        self._unpacker = unpacker
        self._unpack = unpacker()

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, into: Any) -> int:
        while True:
            packed = b""
            if self._unpack.eof:
                if not (packed := self._rest()):
                    return 0
                self._unpack = self._unpacker()
            elif self._unpack.needs_input and not (packed := self._file.read(PACKED_BYTES)):
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            if data := self._unpack.decompress(packed, len(into)):
                into[: len(data)] = data
                return len(data)

    def _rest(self) -> bytes:
        """What is behind a stream; zeros, which xz may put there, do not count."""
        packed: bytes = self._unpack.unused_data.lstrip(b"\0")
        while not packed and (piece := self._file.read(PACKED_BYTES)):
            packed = piece.lstrip(b"\0")
        return packed


# Which opener unpacks files of an ending.
UNPACKED: dict[str, Callable[[Path, str], Any]] = {
    ".gz": gzip.open,
    ".bz2": lambda path, _: io.BufferedReader(_Streams(path, bz2.BZ2Decompressor), CHUNK_BYTES),
    ".xz": lambda path, _: io.BufferedReader(_Streams(path, lzma.LZMADecompressor), CHUNK_BYTES),
    ".zst": _open_zst,
}


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a plain or compressed (.gz, .bz2, .xz, .zst) file for reading.

    Its faults become `DataError`.
    """
    opener = UNPACKED.get(path.suffix.lower())
    try:
        with opener(path, "rb") if opener else path.open("rb") as stream:
            yield stream
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and not (opener and error.errno is None):
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        # Broken gzip and bzip2 data is an OSError, too, but not the system's.
        raise DataError(
            f"{path} is not a whole {path.suffix} file ({error}). Fetch or compress it again."
        ) from error


@contextmanager
def open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open for reading as UTF-8, line ends untouched; other bytes become surrogates."""
    with open_bytes(path) as stream:
        start = stream.peek(2)[:2] if hasattr(stream, "peek") else b""
        refuse_utf16(start, path)
        with io.TextIOWrapper(
            stream, encoding="utf-8-sig", errors="surrogateescape", newline=""
        ) as text:
            yield text


def lines_of(stream: IO[AnyStr], path: Path) -> Iterator[AnyStr]:
    """The lines of a file with their ends; `DataError` for one longer than any row of text."""
    number = 0
    while line := stream.readline(ROW_LIMIT):
        number += 1
        if len(line) == ROW_LIMIT:
            raise too_long(path, number)
        yield line


def too_long(path: Path | str, line: int) -> DataError:
    """The error for a row above `ROW_LIMIT`."""
    return DataError(
        f"{path}, line {line}: a row is longer than {ROW_LIMIT >> 20} MiB. Split it, or check that "
        "the file is what its ending says."
    )


def refuse_utf16(start: bytes, path: Path) -> None:
    """Raise `DataError` when the first bytes are UTF-16's mark."""
    if start.startswith(UTF16):
        raise DataError(f"{path} is UTF-16 text. Save it as UTF-8.")


def is_utf8(text: str) -> bool:
    """Whether the text can be written as UTF-8 (it holds no half of a surrogate pair)."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(text: str) -> str:
    """The text with whatever is not UTF-8 replaced by a question mark."""
    return text.encode("utf-8", "replace").decode()
