import math

import pytest

from staff.training.metrics import UnicodeWords, bleu, bleu_interval, exact, rouge_l


def test_rouge_l_by_hand():
    # LCS("a b c d", "a c d e") = a c d: precision 3/4, recall 3/4.
    # LCS("b", "a b") = b: precision 1, recall 1/2, F = 2/3.
    scores, mean = rouge_l(["a b c d", "b"], ["a c d e", "a b"])
    assert scores == pytest.approx([75, 200 / 3])
    assert mean == pytest.approx((75 + 200 / 3) / 2)


def test_rouge_l_in_cyrillic():
    # "мен кітап оқыдым" is in order within "мен кеше кітап оқыдым": precision 1, recall 3/4.
    scores, _ = rouge_l(["Мен кітап оқыдым."], ["Мен кеше кітап оқыдым"])
    assert scores == pytest.approx([100 * 2 * 0.75 / 1.75])
    assert rouge_l(["Қазақ тілі"], ["Орыс әні"])[1] == 0
    assert rouge_l(["Қазақ тілі"], ["қазақ ТІЛІ!"])[1] == 100


def test_rouge_l_edges():
    assert rouge_l(["", "...", "a"], ["a b", "a b", "…"])[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's 3.5, isn't it?", ["it", "s", "3", "5", "isn", "t", "it"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),  # vowel signs are marks, not separators
        ("nai\u0308ve", ["naïve"]),  # a decomposed letter is the same letter
        ("中文 test", ["中", "文", "test"]),  # no spaces between words: by character
        ("한국어 문장", ["한국어", "문장"]),
        ("العربية لغة", ["العربية", "لغة"]),
    ],
)
def test_words_of_any_script(text, words):
    assert UnicodeWords().tokenize(text) == words


def test_bleu_by_hand():
    # "the" occurs twice in the prediction, once in the reference: 5 of 6 single words,
    # then 3 of 5, 2 of 4 and 1 of 3 longer runs; equal lengths, so no brevity penalty.
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    scores, corpus = bleu(["the cat sat on the mat"], ["the cat sat on a mat"])
    assert scores[0] == pytest.approx(expected)
    assert corpus == pytest.approx(expected)
    # The same in Kazakh, word for word.
    scores, corpus = bleu(["бұл мысық мына жерде бұл отыр"], ["бұл мысық мына жерде бір отыр"])
    assert corpus == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["我们今天坐火车去北京看朋友", "今日は友達と電車で行きます", "ผมชอบกินข้าวผัดกับเพื่อน"]
)
def test_bleu_without_spaces_between_words(text):
    from sacrebleu.metrics import BLEU

    other = text[:-2] + text[:2]
    assert 0 < bleu([other], [text])[1] < bleu([text], [text])[1] == pytest.approx(100)
    if text[0] == "我":
        own = BLEU(tokenize="zh").corpus_score([other], [[text]]).score
        assert bleu([other], [text])[1] == pytest.approx(own)


def test_bleu_brevity_and_corpus():
    # Every run matches, but four words of five: exp(1 - 5/4).
    assert bleu(["a b c d"], ["a b c d e"])[1] == pytest.approx(100 * math.exp(-0.25))
    # Over the corpus counts are summed before they are divided: words 8 of 9, then 6/7, 4/5
    # and 2/3 of longer runs. The mean of the sentence scores is another number.
    scores, corpus = bleu(["a b c d", "a b c d x"], ["a b c d", "a b c d e"])
    assert corpus == pytest.approx(100 * (8 / 9 * 6 / 7 * 4 / 5 * 2 / 3) ** 0.25)
    assert scores.mean() != pytest.approx(corpus, abs=0.1)
    assert bleu(["a b"], ["a b"])[0] == pytest.approx([100])  # too short for runs of four


def test_bleu_interval_is_of_the_corpus_score():
    # Two items, drawn twice with replacement: both twice the first, both twice the second, or
    # one of each, with odds 1 : 1 : 2. The corpus score of each is known; so are the quantiles.
    predictions, references = ["a b c d", "a b c d x y z"], ["a b c d", "a b c d e f g"]
    both = bleu(predictions, references)[1]
    first, second = (bleu(predictions[i : i + 1], references[i : i + 1])[1] for i in (0, 1))
    value, low, high = bleu_interval(predictions, references)
    assert value == pytest.approx(both)
    assert (low, high) == pytest.approx((second, first))
    assert bleu_interval(predictions, references, level=0.2)[1:] == pytest.approx((both, both))
    # As sacrebleu itself would put it, to the corpus's own smoothing.
    poor, good = ["x b c d e"], ["a b c d e"]
    assert bleu_interval(poor, good) == pytest.approx([bleu(poor, good)[1]] * 3)


def test_bleu_agrees_with_sacrebleu_where_nothing_long_matches():
    from sacrebleu.metrics import BLEU

    predictions, references = (
        ["a x c", "", "the cat sat here"],
        ["a b c", "some words", "a dog sat here"],
    )
    own = BLEU().corpus_score(predictions, [references]).score
    assert bleu(predictions, references)[1] == pytest.approx(own)
    assert own > 0  # two words in a row are right: longer runs are smoothed


def test_exact():
    scores, mean = exact([" Астана\n", "astana", ""], ["Астана", "Astana", ""])
    assert scores.tolist() == [1, 0, 1]
    assert exact(["caf\u00e9"], ["cafe\u0301"])[1] == 1  # one text, written in two ways
    assert mean == pytest.approx(2 / 3)
