"""The token store gives back what was put in, and refuses what it did not write."""

import numpy as np
import pyarrow as pa
import pytest

from staff.data.store import RECENT, TokenStore
from staff.errors import RunError
from staff.types import IGNORE, TokenisedExample


def samples(n, seed=0):
    random = np.random.default_rng(seed)
    for i in range(n):
        ids = random.integers(0, 50_000, random.integers(2, 30))
        labels = np.where(random.random(len(ids)) < 0.5, ids, IGNORE)
        labels[-1] = ids[-1]
        yield TokenisedExample(f"id-{i}", ids, labels, bool(i % 3 == 0))


def write(path, examples, size=7):
    examples = list(examples)
    with TokenStore.write(path) as writer:
        for start in range(0, len(examples), size):
            part = examples[start : start + size]
            writer.append([2 * (start + i) for i in range(len(part))], part)
        writer.append([], [])
    return examples, writer


def same(a, b):
    return (
        a.id == b.id
        and a.truncated == b.truncated
        and a.input_ids.tolist() == b.input_ids.tolist()
        and a.labels.tolist() == b.labels.tolist()
    )


def test_round_trip(tmp_path):
    examples, writer = write(tmp_path / "t.arrow", samples(50))
    store = TokenStore.open(tmp_path / "t.arrow")
    assert len(store) == 50
    assert writer.tokens == store.lengths.sum()
    assert store.ids == tuple(e.id for e in examples)
    assert store.rows.tolist() == list(range(0, 100, 2))
    assert store.lengths.tolist() == [len(e.input_ids) for e in examples]
    assert store.response_lengths.tolist() == [int((e.labels != IGNORE).sum()) for e in examples]
    assert store.truncated.tolist() == [e.truncated for e in examples]
    order = np.random.default_rng(1).permutation(50)
    assert all(same(a, examples[i]) for a, i in zip(store.get(order), order, strict=True))
    assert store.get([]) == []
    with pytest.raises(IndexError):
        store.get([50])
    with pytest.raises(IndexError):
        store.get([-1])


def test_empty_store(tmp_path):
    write(tmp_path / "t.arrow", [])
    store = TokenStore.open(tmp_path / "t.arrow")
    assert (len(store), store.ids, store.lengths.dtype) == (0, (), np.int32)


def test_unfinished_store_is_not_there(tmp_path):
    def stopped():
        with TokenStore.write(tmp_path / "t.arrow") as writer:
            writer.append([0], list(samples(1)))
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        stopped()
    assert list(tmp_path.iterdir()) == []


def test_foreign_broken_and_missing_files(tmp_path):
    table = pa.table({"a": [1]})
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(RunError, match="not written by this version"):
        TokenStore.open(tmp_path / "a.arrow")
    (tmp_path / "b.arrow").write_bytes(b"nonsense" * 9)
    for name in ("b.arrow", "c.arrow"):
        with pytest.raises(RunError, match="cannot read the tokens"):
            TokenStore.open(tmp_path / name)


def test_same_samples_same_bytes(tmp_path):
    write(tmp_path / "a.arrow", samples(30))
    write(tmp_path / "b.arrow", samples(30))
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()


def test_rows_of_more_record_batches_than_are_kept(tmp_path):
    examples, _ = write(tmp_path / "t.arrow", samples(60), size=2)
    store = TokenStore.open(tmp_path / "t.arrow")
    order = np.random.default_rng(2).permutation(60)
    assert all(same(a, examples[i]) for a, i in zip(store.get(order), order, strict=True))
    assert len(store._recent) == RECENT
    store.release()
    assert not store._recent
    (tmp_path / "t.arrow").unlink()  # what was opened can be read on
    assert same(store.get([59])[0], examples[59])
