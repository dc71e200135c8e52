"""A compressed file that is not whole never passes for a shorter one."""

import gzip
import os

import pytest
import zstandard

from staff.data.files import open_source
from staff.errors import DataError

LINES = b"".join(b'{"a": "%s"}\n' % os.urandom(40).hex().encode() for _ in range(2000))
PACK = {"gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress}


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
