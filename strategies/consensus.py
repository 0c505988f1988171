"""Which of several open texts is most like the others: minimum Bayes risk with a cheap similarity. Pure.

Kumar and Byrne (2004); for language models Bertsch et al., "It's MBR All the Way Down" (2023). The similarity is the
Dice coefficient of the sets of words and pairs of words: no model, and the same for every language that writes words
apart; text without spaces is compared by its characters.
"""

from __future__ import annotations

import re
from itertools import pairwise

_WORDS = 400  # read of one text: enough to tell texts apart, and a bound on what a comparison costs
_WORD = re.compile(r"\w+")
_SPACED = 12  # characters; words longer than that on average are no words but text written without spaces

FEWEST_WORDS = 8  # of an open text; names and short phrases are equal or not, and likeness says nothing about them

# Mean similarity to the others under which a text has nothing in common with them but the language: 95 % of the pairs
# of answers to *different* questions stay under it (SmolLM2-135M-Instruct, 8 open questions x 8 answers of 80 tokens;
# answers to the same question came to .04 to .46).
UNRELATED = 0.12

Grams = frozenset[tuple[str, ...]]


def grams(text: str) -> Grams:
    """The words of a text and its pairs of neighbouring words, without case."""
    words = _WORD.findall(text[: _WORDS * 20].casefold())[:_WORDS]
    if words and sum(map(len, words)) > _SPACED * len(words):
        words = list("".join(words)[:_WORDS])
    return frozenset([(word,) for word in words] + list(pairwise(words)))


def is_open(text: str) -> bool:
    """Long enough to be compared by likeness."""
    return len(_WORD.findall(text[: _WORDS * 20])) >= FEWEST_WORDS


def similarity(one: Grams, other: Grams) -> float:
    """0: no word in common, 1: the same words and pairs. Two texts without words are alike."""
    size = len(one) + len(other)
    return 2 * len(one & other) / size if size else 1.0


class Likeness:
    """Sums of similarities, kept up as texts come: n texts cost n comparisons for the next one."""

    def __init__(self) -> None:
        self._grams: list[Grams] = []
        self._sums: list[float] = []

    def add(self, text: str) -> None:
        own = grams(text)
        likenesses = [similarity(own, other) for other in self._grams]
        self._sums = [total + likeness for total, likeness in zip(self._sums, likenesses, strict=True)]
        self._sums.append(sum(likenesses))
        self._grams.append(own)

    def means(self) -> list[float]:
        """Each text's mean similarity to the others, 0 to 1, in order of adding. A lone text has nobody: 0."""
        others = max(1, len(self._sums) - 1)
        return [total / others for total in self._sums]
