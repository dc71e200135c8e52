"""How the cases change a good folder: a file's new contents, or None where it goes."""

import json


def apply(folder, changes):
    """Change files of a folder; in a name ``__`` stands for a dot, and a function takes the path."""
    for name, content in changes.items():
        file = folder / name.replace("__", ".")
        if content is None:
            file.unlink()
        elif isinstance(content, str):
            file.write_text(content, encoding="utf-8")
        else:
            content(file)


def json_values(values):
    """A change of a JSON file: other values, and none for a key that is "gone"."""

    def change(file):
        found = json.loads(file.read_text()) | values
        file.write_text(json.dumps({k: v for k, v in found.items() if v != "gone"}))

    return change


def tensors(change):
    """A change of a safetensors file, by a function of its tensors."""

    def rewrite(file):
        from safetensors.torch import load_file, save_file

        found = load_file(file)
        change(found)
        save_file(found, file, metadata={"format": "pt"})

    return rewrite
