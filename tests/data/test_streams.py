"""A compressed file that is not whole never passes for a shorter one."""

import bz2
import gzip
import lzma
import os

import pytest
import zstandard

from staff.data.files import open_source
from staff.errors import DataError

LINES = b"".join(b'{"a": "%s"}\n' % os.urandom(40).hex().encode() for _ in range(2000))
PACK = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("cut", [10, 1000, -3])
def test_cut_file(ending, cut, tmp_path):
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(PACK[ending](LINES)[:cut])
    with pytest.raises(DataError, match=f"not a whole .{ending} file"):
        list(open_source(path).records())


@pytest.mark.parametrize("ending", PACK)
def test_not_compressed_at_all(ending, tmp_path):
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(LINES)
    with pytest.raises(DataError, match=f"not a whole .{ending} file"):
        list(open_source(path).records())


@pytest.mark.parametrize("ending", PACK)
def test_many_frames(ending, tmp_path):
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(b"".join(PACK[ending](LINES[i : i + 999]) for i in range(0, len(LINES), 999)))
    assert [r.raw.encode() for r in open_source(path).records()] == LINES.split(b"\n")[:-1]


@pytest.mark.parametrize("ending", PACK)
def test_a_damaged_frame_is_not_the_end(ending, tmp_path):
    """As pbzip2 and cat make several of them. Python's bz2 and lzma drop all from there on."""
    pack, path = PACK[ending], tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(pack(LINES) + b"X" + pack(LINES)[1:])
    with pytest.raises(DataError, match=f"not a whole .{ending} file"):
        list(open_source(path).records())


@pytest.mark.parametrize("zeros", [4, 3 << 20])
def test_zeros_between_frames_of_xz(zeros, tmp_path):
    path = tmp_path / "a.jsonl.xz"
    path.write_bytes((lzma.compress(LINES) + bytes(zeros)) * 2)
    assert sum(1 for _ in open_source(path).records()) == 2 * LINES.count(b"\n")
