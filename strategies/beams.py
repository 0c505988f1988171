"""What a beam search decides by: how a beam grows by a piece, which beams stay, what a round may cost. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from strategies.ledger import MIN_USEFUL_TOKENS
from strategies.types import Bounded, Candidate, Query, Scorer
from strategies.voting import quality


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Where a step ends."""

    stop: tuple[str, ...] = ("\n\n",)  # texts that end a step, and stay in the partial solution; none: only `tokens`
    tokens: int = 32  # a step is no longer than this
    max_steps: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Beam:
    """A partial solution: the steps so far as one candidate, and whether it has come to its end."""

    candidate: Candidate
    done: bool = False
    tree: int = 0  # the subtree it grows in; there is only one unless the search is diverse

    @property
    def finished(self) -> bool:
        """It came to its own end. One that was cut by length is done, and no answer."""
        return self.done and self.candidate.finished

    @property
    def text(self) -> str:
        """What makes it the same as another one: its text, whatever the white space between the words."""
        return " ".join(self.candidate.text.split())


def grown(root: Beam | None, piece: Candidate, steps: Steps, query: Query) -> Beam:
    """The beam that a piece makes of its root. Done when the engine ended it by itself, or its length is used up."""
    before = root.candidate if root is not None else None
    mark = _mark(piece, steps, query)
    tokens = piece.tokens + (before.tokens if before else 0)
    text = (before.text if before else "") + piece.text
    # engines take back what was said, not what was thought: a beam of thoughts alone can't be continued
    exhausted = (query.max_tokens is not None and tokens >= query.max_tokens) or bool(piece.reasoning and not text)
    ended = piece.finish_reason not in (None, "length") and mark is None
    if mark is not None and not exhausted:
        text += joint(mark)
    summaries = [c.logprobs for c in (before, piece) if c is not None and c.logprobs is not None]
    return Beam(
        done=ended or exhausted,
        tree=root.tree if root is not None else 0,
        candidate=replace(
            piece,
            text=text,
            tokens=tokens,
            reasoning=(before.reasoning if before else "") + piece.reasoning,
            logprobs=sum(summaries[1:], summaries[0]) if summaries else None,
            logprob_content=(*(before.logprob_content if before else ()), *piece.logprob_content),
            finish_reason=piece.finish_reason if ended else ("length" if exhausted else None),
        ),
    )


def _mark(piece: Candidate, steps: Steps, query: Query) -> str | None:
    """The text that ended the step. None when none did: the client's own stop strings end the answer."""
    own: str | Sequence[str] = query.sampling.get("stop") or ()
    own = (own,) if isinstance(own, str) else own
    if piece.finish_reason != "stop" or piece.stop_reason in own:
        return None
    return next((mark for mark in steps.stop if mark == piece.stop_reason), None)


def joint(mark: str) -> str:
    """What stands between two steps: the mark, which the engine leaves out, without spaces at its end.

    Tokenizers put a space in front of the word that follows. Given one at the end of a prefix a model has to go on
    with a word that no text has there; without it, it says the space itself.
    """
    return mark.rstrip(" \t") or mark


def scored(beam: Beam, score: float | None) -> Beam:
    return replace(beam, candidate=replace(beam.candidate, score=score))


def plant(beams: Sequence[Beam], trees: int) -> list[Beam]:
    """First steps dealt out to the subtrees, in order of drawing."""
    return [replace(beam, tree=number % trees) for number, beam in enumerate(in_order(beams))]


def in_order(beams: Sequence[Beam]) -> list[Beam]:
    return sorted(beams, key=lambda beam: beam.candidate.index)


def best_first(beams: Sequence[Beam]) -> list[Beam]:
    return sorted(beams, key=lambda beam: quality(beam.candidate), reverse=True)


def distinct(beams: Sequence[Beam]) -> list[Beam]:
    """One beam for each text of a subtree, the best: growing two would buy the same thing twice."""
    kept: dict[tuple[int, str], Beam] = {}
    for beam in best_first(beams):
        kept.setdefault((beam.tree, beam.text), beam)
    return list(kept.values())


def ranked(finished: Sequence[Beam]) -> list[Beam]:
    """By score; of equals the one that finished first, so that none that comes later takes its place."""
    return sorted(finished, key=lambda beam: beam.candidate.score or 0.0, reverse=True)


def survivors(live: Sequence[Beam], finished: Sequence[Beam], keep: int) -> list[Beam]:
    """The live beams to go on with, best first: those among the `keep` best of their subtree, finished ones included.

    A finished beam holds its place: what it pushes out is not worth going on with (a heuristic: a partial solution
    could still have overtaken it). A subtree with `keep` finished beams is at its end.
    """
    chosen: list[Beam] = []
    for tree in sorted({beam.tree for beam in live}):
        ended = distinct([beam for beam in finished if beam.tree == tree])
        if len(ended) < keep:
            best = best_first([*ended, *(beam for beam in live if beam.tree == tree)])[:keep]
            chosen += [beam for beam in best if not beam.done]
    return best_first(chosen)


def beaten(live: Beam, by: Beam, scorer: Scorer | None, *, tokens_left: int) -> bool:
    """Whether nothing that can grow from a live beam will score more than a finished one. Exact, or False.

    Only scorers that know a bound can tell. Where the two would be equal the finished one stays (see `ranked`).
    """
    if not isinstance(scorer, Bounded):
        return False
    bound = scorer.bound(live.candidate, tokens_left=tokens_left)
    return (by.candidate.score if by.candidate.score is not None else -inf) >= bound


def room(beam: Beam | None, steps: Steps, query: Query) -> int:
    """Tokens that the next step of a beam may have."""
    if query.max_tokens is None:
        return steps.tokens
    return max(1, min(steps.tokens, query.max_tokens - (beam.candidate.tokens if beam is not None else 0)))


def shares(wanted: Sequence[int], expansion: int, remaining: int, *, answered: bool) -> list[tuple[int, int]]:
    """What each beam, best first, may draw in a round: continuations, and tokens of each. Empty: no round is worth it.

    wanted: tokens of one continuation of each beam. A round that does not fit has fewer continuations rather than
    shorter ones, because a step that is cut is worth little; the better beams get them first. Before there is an
    answer a round takes no more than half of what remains, so that something is left to finish with, and the last of
    the budget is spent whatever its length; after that, only what can hold a useful step.
    """
    if not wanted or remaining < 1:
        return []
    left = remaining if answered else max(remaining // 2, min(wanted[0], remaining))
    counts = [0] * len(wanted)
    for _ in range(expansion):
        for beam, tokens in enumerate(wanted):
            if tokens <= left:
                counts[beam] += 1
                left -= tokens
    if any(counts):
        return list(zip(counts, wanted, strict=True))
    if answered and left < min(wanted[0], MIN_USEFUL_TOKENS):
        return []
    return [(1, min(wanted[0], left)), *((0, 0) for _ in wanted[1:])]
