"""A tiny random Llama with a tiny byte-level BPE tokenizer, and rows in memory."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from staff.types import IGNORE, TokenisedExample

PAIRS = [
    ("What is the capital of Kazakhstan?", "Astana."),
    ("Қазақстанның астанасы қандай?", "Астана қаласы."),
    ("Name a colour.", "Blue, like the sky at noon."),
    ("Name another colour.", "Green."),
    ("2 + 2?", "4"),
    ("3 + 5?", "8"),
    ("Say hello.", "Hello there!"),
    ("Say goodbye.", "Goodbye, and thank you for the fish."),
    ("Who wrote Hamlet?", "William Shakespeare wrote it."),
    ("Who painted Guernica?", "Picasso."),
    ("Opposite of hot?", "cold"),
    ("Opposite of big?", "small"),
    ("Translate: кітап", "book"),
    ("Translate: алма", "apple"),
    ("A long one, please.", "one two three four five six seven eight nine ten"),
    ("A short one, please.", "one"),
]


@dataclass
class Rows:
    """Tokenised rows held in memory; what `data.store.TokenStore` offers on disk."""

    rows: list[TokenisedExample]
    ids: list[str] = field(init=False)
    lengths: np.ndarray = field(init=False)
    response_lengths: np.ndarray = field(init=False)

    def __post_init__(self):
        self.ids = [row.id for row in self.rows]
        self.lengths = np.array([len(row.input_ids) for row in self.rows], np.int32)
        self.response_lengths = np.array(
            [(row.labels != IGNORE).sum() for row in self.rows], np.int32
        )

    def get(self, positions):
        return [self.rows[int(position)] for position in positions]


def encode(tokenizer, prompt: str, response: str) -> TokenisedExample:
    head = [tokenizer.bos_token_id, *tokenizer.encode(prompt + "\n", add_special_tokens=False)]
    tail = [*tokenizer.encode(response, add_special_tokens=False), tokenizer.eos_token_id]
    ids = np.array(head + tail, np.int64)
    labels = np.where(np.arange(len(ids)) < len(head), IGNORE, ids)
    return TokenisedExample(prompt, ids, labels)


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([text for pair in PAIRS for text in pair], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, tokenizer) -> Path:
    """Folder of the tiny model, float32 weights, with its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.2,  # a random head that can tell tokens apart
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def rows(tokenizer) -> Rows:
    return Rows([encode(tokenizer, prompt, response) for prompt, response in PAIRS])


@pytest.fixture
def arguments_of(tmp_path):
    """Makes the arguments of a short training of a model."""
    from staff.training.arguments import training_arguments

    def make(model, *, batch_size=4):
        return training_arguments(
            folder=tmp_path,
            model=model,
            epochs=1,
            max_steps=None,
            batch_size=batch_size,
            learning_rate=1e-3,
            warmup=0.1,
            seed=0,
            gradient_checkpointing=False,
        )

    return make


@pytest.fixture
def trainer_of(tiny, rows, arguments_of):
    """Makes a trainer that has not started, around the tiny model with a fresh adapter."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM

    from staff.training.callbacks import LossCurve
    from staff.training.trainer import ResponseTrainer

    def make(*, batch_size=4, attention="sdpa", **how):
        model = AutoModelForCausalLM.from_pretrained(
            tiny, dtype=torch.float32, attn_implementation=attention
        )
        args = arguments_of(model, batch_size=batch_size)
        lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
        lora.init_lora_weights = False  # B is not zero: every weight has a gradient
        torch.manual_seed(0)
        return ResponseTrainer(
            model=model, args=args, peft_config=lora, tokens=rows, seed=0,
            curve=LossCurve(lambda point: None), **how,
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def memorised(tmp_path_factory, tiny, rows):
    """The tiny model, tuned on the 16 rows until it knows them by heart."""
    from staff.training.finetune import finetune

    out = tmp_path_factory.mktemp("tuned") / "adapter"
    return finetune(model=str(tiny), tokens=rows, out=out, epochs=40, learning_rate=1e-2, seed=1)
