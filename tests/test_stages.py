import pytest

from staff.data.files import open_source
from staff.errors import ModelError
from staff.runs.config import SelectConfig
from staff.stages import count_parameters, reading_key


def test_weights_cut_short_are_told_from_an_internal_error(tiny, tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    file = tmp_path / "model.safetensors"
    assert count_parameters(str(tmp_path)) > 0
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read .*fetch the model"):
        count_parameters(str(tmp_path))


def test_the_same_bytes_are_other_rows_as_another_kind_of_file(tmp_path):
    keys = set()
    for name in ("a.csv", "a.tsv"):
        (tmp_path / name).write_text("text\tx,y\na\tb,c\n")
        source = open_source(tmp_path / name)
        config = SelectConfig(data=source.name, method="random", keep=0.5, out="run")
        keys.add(reading_key(config, source, source.content_hash(), []))
    assert len(keys) == 2
