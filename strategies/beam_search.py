"""Step-level beam search (Snell et al. 2024): grow partial solutions step by step, keep the best.

Not the engine's token-level beam search: each round every live beam is continued by ordinary sampling up to a step
boundary, through an assistant message that the engine continues, so that its prefix cache is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from strategies.answers import expected_form
from strategies.types import Answer, Candidate, EngineError, Publish, Query, Strategy, StrategySpec, Tools
from strategies.voting import Ballot, best_first


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Where a step ends."""

    stop: str = "\n\n"  # text that ends a step; it stays in the partial solution
    tokens: int = 32  # a step is no longer than this
    max_steps: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beam:
    """A partial solution: the steps so far as one candidate, and whether it has come to its end."""

    candidate: Candidate
    done: bool = False


def beam_search_with(steps: Steps) -> Strategy:
    """The strategy for one kind of step."""

    async def beam_search(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
        """Keep the `n` best of `n * expansion` continuations a round; finished beams stand aside and stay."""
        ballot = Ballot(form=expected_form(query))
        scorer = tools.scorer
        live: list[_Beam] = []
        answer = Answer(winners=())
        for _ in range(steps.max_steps):
            grown = await _grow(query, spec, tools, steps, live)
            if not grown:  # the token budget allows no further step
                return replace(answer, cut_short="tokens")
            if scorer is not None:
                scores = await scorer.score(query, [beam.candidate for beam in grown])
                grown = [
                    replace(beam, candidate=replace(beam.candidate, score=score))
                    for beam, score in zip(grown, scores, strict=True)
                ]
            for beam in grown:
                if beam.done:
                    ballot.cast(beam.candidate)
            finished = ballot.candidates
            live = _distinct([beam for beam in grown if not beam.done])
            # a finished beam holds its place among the best: what it pushed out is not worth going on with
            kept = best_first([*finished, *(beam.candidate for beam in live)])[: spec.n]
            keep = {id(candidate) for candidate in kept}
            live = [beam for beam in live if id(beam.candidate) in keep]
            answer = _answer(ballot, [beam.candidate for beam in live], answers=query.answers)
            publish(answer)
            if not live or len(finished) >= spec.n:
                return answer
        return replace(answer, note=f"stopped after {steps.max_steps} steps")

    return beam_search


async def _grow(query: Query, spec: StrategySpec, tools: Tools, steps: Steps, live: Sequence[_Beam]) -> list[_Beam]:
    """One round: continue every live beam `expansion` times, or draw the first steps.

    A beam whose continuation fails is lost, the others are not. Raises EngineError when all fail.
    """
    roots = live or [None]
    width = spec.expansion if live else spec.draws
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_attempt(query, tools, steps, root, width)) for root in roots]
    rounds = [task.result() for task in tasks]
    failures = [grown for grown in rounds if isinstance(grown, EngineError)]
    if len(failures) == len(rounds):
        raise failures[0]
    return [beam for grown in rounds if not isinstance(grown, EngineError) for beam in grown]


async def _attempt(
    query: Query, tools: Tools, steps: Steps, root: _Beam | None, width: int
) -> list[_Beam] | EngineError:
    try:
        return await _continue(query, tools, steps, root, width)
    except EngineError as error:
        return error


async def _continue(query: Query, tools: Tools, steps: Steps, root: _Beam | None, width: int) -> list[_Beam]:
    said = root.candidate.text if root is not None else ""
    used = root.candidate.tokens if root is not None else 0
    room = (query.max_tokens - used) if query.max_tokens else steps.tokens
    own: str | Sequence[str] = query.sampling.get("stop") or ()
    ends = steps.stop == own if isinstance(own, str) else steps.stop in own
    grown: list[_Beam] = []
    draw = tools.sampler.draw(
        query,
        n=width,
        prefix=said,
        stop=(steps.stop,),
        max_tokens=max(1, min(steps.tokens, room)),
        top_logprobs=tools.scorer.needs_top_logprobs if tools.scorer is not None else None,
    )
    async with aclosing(draw) as stream:
        async for piece in stream:
            grown.append(_joined(root, piece, steps, query.max_tokens, ends=ends))
    return grown


def _joined(root: _Beam | None, piece: Candidate, steps: Steps, max_tokens: int | None, *, ends: bool) -> _Beam:
    """The beam grown by one piece. Done when the engine ended it by itself, or its own length is used up.

    ends: the client's own stop strings hold the step's, so that it ends the answer and not only a step.
    """
    before = root.candidate if root is not None else None
    tokens = piece.tokens + (before.tokens if before else 0)
    at_boundary = piece.finish_reason == "stop" and piece.stop_reason == steps.stop and not ends
    exhausted = max_tokens is not None and tokens >= max_tokens
    ended = piece.finish_reason not in (None, "length") and not at_boundary
    summaries = [c.logprobs for c in (before, piece) if c is not None and c.logprobs is not None]
    text = (before.text if before else "") + piece.text
    if at_boundary and not exhausted:
        text += steps.stop  # the engine leaves the stop string out; the next step continues after it
    return _Beam(
        done=ended or exhausted,
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


def _distinct(beams: Sequence[_Beam]) -> list[_Beam]:
    """Continuations with the same text are one beam: growing both would buy the same thing twice."""
    return list({beam.candidate.text: beam for beam in reversed(beams)}.values())[::-1]


def _answer(ballot: Ballot, live: Sequence[Candidate], *, answers: int) -> Answer:
    """The best finished beam, or the best partial one while none has finished."""
    finished = ballot.candidates
    ordered = [*best_first([c for c in finished if c.finished]), *best_first([c for c in finished if not c.finished])]
    return replace(ballot.elect([*ordered, *best_first(live)], answers=answers), note="")
