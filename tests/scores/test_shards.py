"""What a shard gives back is what was written, to the last bit, or nothing."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from staff.errors import RunError
from staff.runs.cache import Cache
from staff.scores.shards import part_path, read_features, read_part, read_scores, write_part

MADE_FROM = b'{"model_hash": "m"}'
AT = np.arange(5)


@pytest.fixture
def shard(tmp_path):
    """Five rows with two scores, one of them not known, and features."""
    values = np.random.default_rng(0).random(5)
    values[3] = np.nan
    path = part_path(tmp_path / "small", 0)
    write_part(
        path,
        ids=[f"id-{i}" for i in AT],
        rows=AT + 10,
        positions=AT,
        columns={"effort": values, "loss": values + 1, "features": np.ones((5, 3), np.float32)},
        fingerprint=MADE_FROM,
    )
    return path


def content(table):
    """All that a reader takes from a shard."""
    values = [column.to_numpy() for column in table.columns[:-1]]
    features = [row.as_py() for row in table.columns[-1]]
    return table.schema.names, table.schema.types, [v.tobytes() for v in values[1:]], features, (
        values[0].tolist()
    )  # fmt: skip


def test_one_bit_of_any_byte_is_refused_or_changes_nothing(shard):
    good = shard.read_bytes()
    written = content(read_part(shard, fingerprint=MADE_FROM, positions=AT)[0])
    refused = 0
    for at in range(0, len(good), 3):
        bits = bytearray(good)
        bits[at] ^= 1 << (at % 8)
        shard.write_bytes(bits)
        found, fault = read_part(shard, fingerprint=MADE_FROM, positions=AT)
        assert (found is None) == bool(fault)
        if found is not None:
            assert content(found) == written, f"bit {at % 8} of byte {at}"
        refused += found is None
    assert refused > len(good) // 3 // 2


@pytest.mark.parametrize("change", ["renamed", "retyped", "other values", "other facts", "cut"])
def test_a_sound_file_of_other_content_is_damaged(shard, change):
    """Rewritten, so that page checksums and footer are as they must be."""
    table = pq.read_table(shard)
    facts = table.schema.metadata
    effort = table["effort"].to_numpy()
    at = table.column_names.index("effort")
    changed = {
        "renamed": lambda: table.rename_columns({"effort": "Effort"}),
        "retyped": lambda: table.set_column(at, "effort", [effort.view(np.int64)]),
        "other values": lambda: table.set_column(at, "effort", [effort + 1e-9]),
        "other facts": lambda: table.replace_schema_metadata(
            {**facts, b"staff.fingerprint": b"{}"}
        ),
        "cut": lambda: table.slice(0, 4),
    }[change]()
    pq.write_table(changed, shard, write_page_checksum=True)
    wanted = b"{}" if change == "other facts" else MADE_FROM
    assert read_part(shard, fingerprint=wanted, positions=AT) == (None, "is damaged")
    for read in (read_scores, read_features):
        with pytest.raises(RunError, match=r"part-00000\.parquet is damaged: run the command"):
            read(shard.parent)


def test_a_damaged_shard_of_the_cache_is_damaged(shard, tmp_path):
    cache = Cache(tmp_path / "cache").open()
    cache.keep_shard("key", shard)
    kept = tmp_path / "cache" / "scores" / "key.parquet"
    kept.write_bytes(kept.read_bytes().replace(b"effort", b"Effort"))
    shard.unlink()
    assert cache.fetch_shard("key", shard)
    assert read_part(shard, fingerprint=MADE_FROM, positions=AT) == (None, "is damaged")
