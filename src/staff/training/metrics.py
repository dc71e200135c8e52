"""Text metrics of predictions against references, per item and as a whole."""

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from staff.rng import stream_seed
from staff.training.statistics import Interval
from staff.types import Floats, Ints

RESAMPLES = 1_000  # of an interval's items
MOST = {"rougeL": 100.0, "bleu": 100.0, "exact": 1.0}  # a metric can be; the least is 0
# Han, kana, Thai, Lao, Myanmar, Khmer: written without spaces, so a character is a word.
UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)


class UnicodeWords:
    """Splits text of any script into lower-case words for ROUGE.

    rouge-score's own tokenizer keeps a-z and 0-9 only: on Kazakh or Chinese text it
    leaves nothing, and every score is 0.
    """

    def tokenize(self, text: str) -> list[str]:
        """Letters, digits and the marks upon them make words; the rest separates.

        >>> UnicodeWords().tokenize("Қазақ тілі, 2 жыл!")
        ['қазақ', 'тілі', '2', 'жыл']
        >>> UnicodeWords().tokenize("我来 I came")
        ['我', '来', 'i', 'came']
        """
        words = unicodedata.normalize("NFC", text.lower())
        kept = (c if unicodedata.category(c)[0] in "LNM" else " " for c in words)
        return spaced("".join(kept)).split()


def spaced(text: str) -> str:
    """Spaces around every character of a script that has none between its words.

    >>> spaced("我来 I came")
    ' 我  来  I came'
    """
    if text.isascii():
        return text
    return "".join(
        f" {char} " if any(low <= ord(char) <= high for low, high in UNSPACED) else char
        for char in text
    )


def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> tuple[Floats, float]:
    """ROUGE-L F-measure (Lin, 2004) times 100: float64 [n] and its mean.

    >>> rouge_l(["a b c d"], ["a c d e"])[1]
    75.0
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=UnicodeWords())
    pairs = zip(references, predictions, strict=True)
    scores = np.array([100 * scorer.score(r, p)["rougeL"].fmeasure for r, p in pairs])
    return scores, float(scores.mean())


def bleu(predictions: Sequence[str], references: Sequence[str]) -> tuple[Floats, float]:
    """BLEU by sacrebleu, 0-100: sentence scores float64 [n], and the *corpus* score.

    The corpus score (Papineni et al., 2002; 13a tokens) is not the mean of the sentence
    scores, which are smoothed (exponential, effective order) so that short items count.
    Where a script has no spaces a character is a word, as in sacrebleu's own tokens for Chinese:
    13a tokens take a whole sentence for one, and find none of it again.
    """
    found = _sentence_bleu(predictions, references)
    counts = np.sum([_counts(score) for score in found], axis=0)
    return np.array([score.score for score in found]), bleu_of(counts)


def bleu_interval(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The corpus BLEU of n items with its percentile bootstrap interval (Koehn, 2004).

    Items are resampled, their counts summed and the score taken of the sums, as for the
    corpus itself; the mean of sentence scores would be another quantity.
    """
    counts = bleu_counts(predictions, references)
    draw = np.random.default_rng(stream_seed(seed, "bootstrap"))
    n, tail = len(counts), (1 - level) / 2
    scores = []
    for _ in range(RESAMPLES):
        times = np.bincount(draw.integers(0, n, n), minlength=n)  # [n]
        scores.append(bleu_of(times @ counts))
    low, high = np.quantile(scores, [tail, 1 - tail])
    return Interval(bleu_of(counts.sum(axis=0)), float(low), float(high))


def _sentence_bleu(predictions: Sequence[str], references: Sequence[str]) -> list[Any]:
    """sacrebleu's score of each item, which holds its counts."""
    from sacrebleu.metrics import BLEU

    sentence = BLEU(effective_order=True)
    pairs = zip(predictions, references, strict=True)
    return [sentence.sentence_score(spaced(p), [spaced(r)]) for p, r in pairs]


def _counts(score: Any) -> Ints:
    """What BLEU is made of, int64 [10]: two lengths, matches and n-grams of orders 1 to 4."""
    return np.array([score.sys_len, score.ref_len, *score.counts, *score.totals], np.int64)


def bleu_counts(predictions: Sequence[str], references: Sequence[str]) -> Ints:
    """What the corpus score of n items is made of, int64 [n, 10]; `bleu_of` takes their sum."""
    return np.array([_counts(score) for score in _sentence_bleu(predictions, references)])


def bleu_of(counts: Ints) -> float:
    """The corpus BLEU of summed counts [10]: two lengths, matches and n-grams of orders 1 to 4.

    >>> round(bleu_of(np.array([4, 4, 4, 3, 2, 1, 4, 3, 2, 1])))
    100
    """
    from sacrebleu.metrics import BLEU

    predicted, wanted, *rest = counts.tolist()
    return float(BLEU.compute_bleu(rest[:4], rest[4:], predicted, wanted, "exp").score)


def exact(predictions: Sequence[str], references: Sequence[str]) -> tuple[Floats, float]:
    """1 where prediction and reference agree but for white space at their ends, else 0.

    A letter and its accent apart are the letter with it (Unicode's NFC), since many tokenizers
    give back no other.
    """

    def plain(text: str) -> str:
        return unicodedata.normalize("NFC", text.strip())

    pairs = zip(predictions, references, strict=True)
    scores = np.array([float(plain(p) == plain(r)) for p, r in pairs])
    return scores, float(scores.mean())


TextMetric = Callable[[Sequence[str], Sequence[str]], tuple[Floats, float]]
TEXT_METRICS: dict[str, TextMetric] = {"rougeL": rouge_l, "bleu": bleu, "exact": exact}
