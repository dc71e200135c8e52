import pytest

from staff.errors import ModelError
from staff.stages import count_parameters


def test_weights_cut_short_are_told_from_an_internal_error(tiny, tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    file = tmp_path / "model.safetensors"
    assert count_parameters(str(tmp_path)) > 0
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read .*fetch the model"):
        count_parameters(str(tmp_path))
