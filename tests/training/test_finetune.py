import hashlib
import json
import math
import os
import random

import numpy as np
import pytest

from staff.errors import ConfigError, DataError, RunError, StaffError
from staff.training.finetune import check_counts, explain_out_of_memory, finetune
from staff.types import IGNORE


def load(folder, dtype="float32"):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture
def trainer(trainer_of):
    return trainer_of()


def test_overfits_sixteen_rows(memorised, rows):
    losses = [loss for _, loss in memorised.losses]
    assert losses[0] > 4
    assert max(losses[-4:]) < 0.2
    assert memorised.rows == 16
    assert memorised.steps == 40 * 2
    assert memorised.tokens == 40 * rows.lengths.sum()
    assert memorised.response_tokens == 40 * rows.response_lengths.sum()


def test_adapter_folder(memorised, tiny):
    from peft import PeftModel
    from safetensors.torch import load_file

    names = {path.name for path in memorised.adapter.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "loss.jsonl"}
    assert [path.name for path in memorised.adapter.parent.iterdir()] == ["adapter"]
    modes = {path.stat().st_mode for path in memorised.adapter.iterdir()}
    assert len(modes) == 1  # what may be read is decided by the user's umask alone
    config = json.loads((memorised.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny)
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 16, 0.0)
    assert config["target_modules"] == sorted(config["target_modules"])
    assert str(memorised.adapter.parent) not in json.dumps(config)

    weights = load_file(memorised.adapter / "adapter_model.safetensors")
    assert len(weights) == 2 * 7 * 2  # A and B of seven linear layers in two blocks, not the head
    tuned = PeftModel.from_pretrained(load(tiny), memorised.adapter)
    in_use = {k: v for k, v in tuned.state_dict().items() if "lora_" in k}
    assert len(in_use) == len(weights)
    for name, tensor in weights.items():
        np.testing.assert_array_equal(tensor, in_use[name.replace(".weight", ".default.weight")])


def test_loss_file_and_schedule(memorised):
    lines = [json.loads(s) for s in (memorised.adapter / "loss.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == list(memorised.losses)
    assert list(lines[0]) == ["step", "epoch", "loss", "learning_rate"]
    assert lines[-1]["epoch"] == 40
    rates = [line["learning_rate"] for line in lines]
    assert max(rates) == rates[8] == 1e-2  # warm-up: a tenth of 80 steps
    # Cosine: half-way between warm-up and end the rate is half.
    assert rates[8 + 36] == pytest.approx(0.5e-2)
    assert rates[-1] < 1e-4


def test_a_single_step_learns(tiny, rows, tmp_path):
    """A tenth of one step, rounded up, would be a warm-up that never ends."""
    points = []
    result = finetune(
        model=str(tiny), tokens=rows, out=tmp_path / "a", batch_size=16, epochs=1,
        on_log=points.append,
    )  # fmt: skip
    assert [point.learning_rate for point in points] == [1e-4]
    assert result.steps == 1


def test_one_seed_gives_the_same_bytes_and_the_callers_draws_go_on(tiny, rows, tmp_path):
    import torch

    def states():
        return random.getstate(), list(np.random.get_state()[1]), torch.get_rng_state().tolist()

    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        before = states()
        finetune(model=str(tiny), tokens=rows, out=tmp_path / name, epochs=2, seed=seed)
    assert states() == before  # the first time a library draws as it is imported
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b
    assert a["adapter_model.safetensors"] != c["adapter_model.safetensors"]
    assert a["adapter_config.json"] == c["adapter_config.json"]


def test_rows_read_from_disk_are_the_same_rows(tiny, rows, tmp_path):
    from staff.data.store import TokenStore

    with TokenStore.write(tmp_path / "tokens.arrow") as writer:
        writer.append(range(16), rows.rows)
    store = TokenStore.open(tmp_path / "tokens.arrow")
    for name, tokens in (("disk", store), ("memory", rows)):
        finetune(model=str(tiny), tokens=tokens, out=tmp_path / name, epochs=2)
    assert digests(tmp_path / "disk") == digests(tmp_path / "memory")


@pytest.mark.parametrize("again", [False, True])
def test_adapters_take_their_inputs_in_half_precision(tiny, rows, tmp_path, again):
    """PEFT makes them float32 and autocast undoes it: a copy for every layer would be kept."""
    import torch
    from torch.nn.modules.module import register_module_forward_pre_hook

    seen = []

    def look(module, args):
        if isinstance(module, torch.nn.Linear) and module.out_features == 3:  # the rank: lora_A
            seen.append(args[0].dtype)

    handle = register_module_forward_pre_hook(look)
    try:
        finetune(
            model=str(tiny), tokens=rows, out=tmp_path / "adapter", max_steps=1, rank=3,
            dtype="bfloat16", device="cpu", gradient_checkpointing=again,
        )  # fmt: skip
    finally:
        handle.remove()
    assert set(seen) == {torch.bfloat16}
    assert len(seen) == 14 * (1 + again)  # two blocks of seven layers, forward and once more


def test_deterministic_sums_are_asked_of_cuda_and_given_back(monkeypatch):
    import torch

    from staff.training.arguments import repeatable

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with repeatable(torch.device("cuda")):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_a_model_that_may_see_images_is_told_of_none(rows, tmp_path, monkeypatch):
    """Gemma 3 of early transformers 5 refuses to train without being told where they are."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Model

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    text = {**sizes, "num_hidden_layers": 2, "num_key_value_heads": 1, "vocab_size": 512}
    config = Gemma3Config(
        text_config={**text, "head_dim": 8, "attention_dropout": 0.1, "sliding_window": 8},
        vision_config={**sizes, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4, image_token_index=500, boi_token_index=501, eoi_token_index=502,
    )  # fmt: skip
    forward, model = Gemma3Model.forward, Gemma3ForConditionalGeneration(config).eval()

    def of_old(self, *args, **how):
        if self.training:
            raise ValueError("`token_type_ids` is required as a model input when training")
        parts.append({layer.training for layer in self.language_model.layers})
        return forward(self, *args, **how)

    parts: list[set[bool]] = []
    monkeypatch.setattr(Gemma3Model, "forward", of_old)
    finetune(model=model, tokens=rows, out=tmp_path / "out", max_steps=1)
    assert parts[-1] == {True}  # with its dropout


def test_padding_token_does_not_matter(tiny, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "staff.training.trainer.packing_of", lambda model: None
    )  # or none is needed
    for token in (0, 7):
        monkeypatch.setattr("staff.data.batches.PAD_ID", token)
        finetune(model=str(tiny), tokens=rows, out=tmp_path / f"{token}", epochs=1)
    assert digests(tmp_path / "0") == digests(tmp_path / "7")


def test_bfloat16_weights_get_a_float32_adapter(tiny, rows, tmp_path):
    import torch
    from safetensors.torch import load_file

    # A float32 run came before this one in the process: the precision is not carried over.
    model = load(tiny, "bfloat16")
    result = finetune(model=model, tokens=rows, out=tmp_path / "a", epochs=10, learning_rate=1e-2)
    assert result.losses[-1][1] < result.losses[0][1] - 1
    weights = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    base = [p for name, p in model.named_parameters() if "lora_" not in name]
    assert {p.dtype for p in base} == {torch.bfloat16}


def test_loss_and_gradients_are_those_of_trl(trainer):
    from trl import SFTTrainer

    (inputs,) = trainer._collate([{"row": row} for row in (0, 5, 8, 14)])["parts"]
    count = (inputs["labels"][:, 1:] != IGNORE).sum()
    results = []
    for loss_of in (type(trainer).compute_loss, SFTTrainer.compute_loss):
        trainer.model.zero_grad()
        loss = loss_of(trainer, trainer.model, dict(inputs), num_items_in_batch=count)
        loss.backward()
        grads = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
        results.append((loss.item(), grads))
    (ours, our_grads), (theirs, their_grads) = results
    assert ours == pytest.approx(theirs, rel=1e-6)
    for name, grad in our_grads.items():
        assert grad.abs().max() > 0
        np.testing.assert_allclose(grad, their_grads[name], rtol=1e-4, atol=1e-6)


def test_every_step_begins_without_gradients(trainer):
    left = []
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    trainer.model.register_forward_pre_hook(
        lambda m, _: left.append(sum(p.grad is not None for p in trained))
    )
    trainer.run()
    assert left == [0] * 4
    assert len(trainer.curve.points) == 4
    assert len(trainer.state.log_history) == 1  # the summary: losses are kept once
    assert "zero_grad" not in vars(trainer.model)  # it is the module's own again
    assert not any(p.grad is not None for p in trained)


def test_prompt_positions_never_reach_the_output_head(trainer):
    seen = []
    head = trainer.model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, output: seen.append(output.shape[:2]))
    (inputs,) = trainer._collate([{"row": row} for row in range(16)])["parts"]
    trainer.compute_loss(trainer.model, inputs)
    assert seen == [(1, trainer.tokens.response_lengths.sum())]


def test_length_grouped_batches_cover_every_row_once_an_epoch(trainer):
    sampler = trainer._get_train_sampler()
    first, second = list(sampler), list(sampler)
    assert sorted(first) == sorted(second) == list(range(16))
    assert first != second
    spread = trainer.tokens.lengths[np.array(first)].reshape(4, 4)
    assert np.ptp(spread, axis=1).mean() < np.ptp(trainer.tokens.lengths)


@pytest.mark.parametrize(
    ("seen", "epochs", "tokens", "words"),
    [
        ([3, 3, 2], 3, 24, "1 of them"),  # a row was dropped in one epoch
        ([3, 4, 3], 3, 30, r"row 1: 4 times"),  # a row was repeated
        ([2, 1, 0], None, 9, "evenly"),  # a step limit does not excuse a row two behind
        ([3, 3, 3], 3, 26, "27 response tokens, but 26"),  # labels were changed on the way
    ],
)
def test_counts_that_differ_are_an_error(trainer, seen, epochs, tokens, words):
    trainer.tokens = type("Given", (), {"response_lengths": np.array([3, 3, 3], np.int32)})
    trainer.seen, trainer.response_tokens = np.array(seen), tokens
    with pytest.raises(StaffError, match=words):
        check_counts(trainer, epochs=epochs)


def test_a_dropped_row_is_found_and_nothing_is_left(tiny, rows, tmp_path, monkeypatch):
    from staff.training.trainer import LengthGroupedSampler

    original = LengthGroupedSampler.__iter__
    monkeypatch.setattr(
        LengthGroupedSampler, "__iter__", lambda self: iter(list(original(self))[1:])
    )
    with pytest.raises(StaffError, match="16 rows to train on 1 time, "):
        finetune(model=str(tiny), tokens=rows, out=tmp_path / "a", epochs=1)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_stops_at_once(tiny, rows, tmp_path):
    model = load(tiny)
    model.model.norm.weight.data.fill_(math.nan)
    steps = []
    with pytest.raises(StaffError, match=r"nan at step 1\. Likely causes"):
        finetune(model=model, tokens=rows, out=tmp_path / "a", on_log=steps.append)
    assert steps == []
    # No loss tells of what the last step did.
    with pytest.raises(StaffError, match="after its last step not all weights"):
        finetune(
            model=str(tiny), tokens=rows, out=tmp_path / "a", max_steps=1,
            learning_rate=1e39, on_log=steps.append,
        )  # fmt: skip
    assert math.isfinite(steps[0].loss)
    assert list(tmp_path.iterdir()) == []


def test_step_limit_progress_and_silence(tiny, rows, tmp_path, capfd):
    class Recorder:
        steps = 0

        def stage(self, name, *, total=None, unit="rows", exact=True):
            self.about = (name, total, unit)
            return self

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def advance(self, amount=1):
            self.steps += amount

    model = load(tiny)
    capfd.readouterr()
    points, progress = [], Recorder()
    result = finetune(
        model=model,
        tokens=rows,
        out=tmp_path / "a",
        batch_size=5,
        max_steps=5,
        on_log=points.append,
        progress=progress,
    )
    assert capfd.readouterr() == ("", "")
    assert progress.about == ("fine-tune", 5, "steps")
    assert progress.steps == result.steps == len(points) == 5
    assert points[-1].epoch == 1.25  # four batches (5 + 5 + 5 + 1) an epoch


@pytest.mark.parametrize(
    "setting",
    [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"max_steps": 0}],
)
def test_settings_out_of_range(setting, rows, tmp_path):
    with pytest.raises(ConfigError):
        finetune(model="nowhere", tokens=rows, out=tmp_path / "a", **setting)


def test_no_rows_and_a_used_folder(rows, tmp_path):
    with pytest.raises(DataError, match="no rows"):
        finetune(model="nowhere", tokens=type(rows)([]), out=tmp_path / "a")
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(RunError, match=r"already holds files; .*--overwrite"):
        finetune(model="nowhere", tokens=rows, out=tmp_path)
    for overwrite in (False, True):
        with pytest.raises(RunError, match="is a file"):
            finetune(
                model="nowhere",
                tokens=rows,
                out=tmp_path / "kept.txt",
                overwrite=overwrite,
            )
    assert (tmp_path / "kept.txt").read_text() == "mine"


def test_overwriting_replaces_the_adapter_and_nothing_else(tiny, rows, tmp_path, monkeypatch):
    train = {"model": str(tiny), "tokens": rows, "max_steps": 2, "overwrite": True}
    fresh, out = tmp_path / "fresh", tmp_path / "used"
    finetune(**train, out=fresh, seed=2)
    (out / "notes").mkdir(parents=True)
    (out / "notes" / "mine.txt").write_text("mine")
    for name in ("adapter_config.json", "adapter_model.safetensors", "loss.jsonl", "staff.json"):
        (out / name).write_text("old")
    before = digests_below(out)
    with monkeypatch.context() as patch:  # whatever goes wrong, the old adapter stays
        patch.setattr("staff.training.finetune.check_counts", refuse)
        with pytest.raises(StaffError, match="refused"):
            finetune(**train, out=out, seed=2)
    assert digests_below(out) == before
    finetune(**train, out=out, seed=2)
    assert digests_below(out) == {**digests(fresh), "notes/mine.txt": before["notes/mine.txt"]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "used"]


def refuse(*args, **kwargs):
    raise StaffError("refused")


def digests_below(folder):
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def test_training_stays_on_the_models_device(arguments_of, monkeypatch):
    """Of two GPUs the second: no such machine here, so what the trainer would ask is asked."""
    from types import SimpleNamespace

    import torch
    from accelerate import Accelerator

    second, current = torch.device("cuda:1"), [1]  # the current GPU is the last in the list
    for name, answer in (
        ("is_available", lambda: True),
        ("device_count", lambda: 2),
        ("current_device", lambda: current[-1]),
        ("set_device", lambda gpu: current.append(gpu if isinstance(gpu, int) else gpu.index)),
    ):
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr("accelerate.state.check_cuda_p2p_ib_support", lambda: True)
    args = arguments_of(SimpleNamespace(device=second, dtype=torch.float32))
    assert args.device == second  # where the trainer puts model and batches
    assert Accelerator().device == second  # and accelerate beneath it
    assert args.n_gpu == 1  # or the model would be copied to all of them
    # Or what a process of a team loads next would lie on the first, and each hold memory of it.
    assert current == [1]
    torch.cuda.set_device(0)
    assert current == [1, 0]  # it can be set again


def test_a_process_that_torchrun_started_alone_is_alone(arguments_of, monkeypatch):
    """accelerate would want to meet others, and wrap the model for them."""
    from types import SimpleNamespace

    import torch

    told = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "PMI_SIZE": "2"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    args = arguments_of(SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32))
    assert args.distributed_state.distributed_type == "NO"
    assert {name: os.environ.get(name) for name in told} == told


def test_out_of_memory_is_explained():
    with (
        pytest.raises(StaffError, match=r"8 rows of up to 512 tokens.*--max-length.*--device"),
        explain_out_of_memory(8, 512),
    ):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
    with (
        pytest.raises(StaffError, match=r"1 row of up to 512 tokens at once; lower --max-length,"),
        explain_out_of_memory(1, 512),
    ):
        raise MemoryError
    with pytest.raises(RuntimeError, match="shapes"), explain_out_of_memory(8, 512):
        raise RuntimeError("shapes do not fit")
