"""Step-level beam search (Snell et al. 2024): grow partial solutions step by step, keep the best.

Not the engine's token-level beam search: each round every live beam is continued by ordinary sampling up to a step
boundary, through an assistant message that the engine continues, so that its prefix cache is used. Rounds are waited
for as a whole, so nothing of a beam that is dropped is still running, and who wins does not depend on who came first.

Diverse (DVTS, Beeching et al. 2024): every place is a subtree of its own that keeps its own best beam. Look-ahead:
where there is a choice, a beam is scored after one more step, drawn greedily and thrown away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from strategies.beams import (
    Beam,
    Steps,
    beaten,
    best_first,
    distinct,
    grown,
    in_order,
    plant,
    ranked,
    room,
    scored,
    shares,
    survivors,
)
from strategies.spec import StrategySpec
from strategies.types import Answer, Candidate, EngineError, Publish, Query, Scorer, ScorerError, Strategy, Tools
from strategies.voting import Ballot

__all__ = ["Steps", "beam_search_with"]
UNBEATABLE = "no unfinished beam could still have won"


def beam_search_with(steps: Steps) -> Strategy:
    """The strategy for one kind of step."""

    async def beam_search(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
        """Keep the `n` best of `n * expansion` continuations a round; finished beams stand aside and stay."""
        return await _Search(query, spec, tools, publish, steps).run()

    return beam_search


class _Search:
    """One search while it runs."""

    def __init__(self, query: Query, spec: StrategySpec, tools: Tools, publish: Publish, steps: Steps) -> None:
        self._query, self._tools, self._publish, self._steps = query, tools, publish, steps
        self._lookahead = spec.lookahead
        # at temperature 0 all continuations are the same: one is enough, and some engines refuse more
        self._width, self._expansion = (1, 1) if query.greedy else (spec.n, spec.expansion)
        self._trees, self._keep = (self._width, 1) if spec.diverse else (1, self._width)
        self._ballot = Ballot.to(query)
        self._finished: list[Beam] = []  # in the order of rounds, the best of a round first
        self._cut: list[Beam] = []  # at the end of their length without an answer: they hold no place
        self._scores: dict[int, float] = {}
        self._failure = ""  # of the scorer, which is not asked again
        self._narrowed = False  # the token budget allowed less than a whole round

    async def run(self) -> Answer:
        live: list[Beam] = []
        answer = Answer(winners=())
        for number in range(1, self._steps.max_steps + 1):
            beams = await self._grow(live)
            if not beams:
                return replace(answer, cut_short="tokens")
            live = await self._select(beams)
            answer = self._answer(live)
            self._publish(answer)
            if live and self._settled(live, rounds_left=self._steps.max_steps - number):
                return replace(answer, note=UNBEATABLE)
            if not live:
                return replace(answer, cut_short="tokens") if self._narrowed else answer
        stopped = f"stopped after {self._steps.max_steps} steps"
        return replace(answer, note="; ".join(filter(None, (answer.note, stopped))))

    async def _grow(self, live: Sequence[Beam]) -> list[Beam]:
        """One round: continue every live beam `expansion` times, or draw the first steps. Empty: no tokens for it.

        A beam whose continuation fails is lost, the others are not. Raises EngineError when nothing came of any.
        """
        roots = live or [None]
        expansion = self._expansion if live else self._width * self._expansion
        wanted = [room(root, self._steps, self._query) for root in roots]
        plan = shares(wanted, expansion, self._tools.sampler.remaining, answered=bool(self._finished))
        self._narrowed = self._narrowed or plan != [(expansion, tokens) for tokens in wanted]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._continue(root, n=n, max_tokens=tokens))
                for root, (n, tokens) in zip(roots, plan, strict=False)
                if n
            ]
        results = [task.result() for task in tasks]
        beams = [beam for result, _ in results for beam in result]
        failure = next((error for _, error in results if error is not None), None)
        if not beams and failure is not None:
            raise failure
        return beams if live else plant(beams, self._trees)

    async def _continue(self, root: Beam | None, *, n: int, max_tokens: int) -> tuple[list[Beam], EngineError | None]:
        beams: list[Beam] = []
        try:
            async with aclosing(self._draw(self._query, root, n=n, max_tokens=max_tokens)) as stream:
                async for piece in stream:
                    beam = grown(root, piece, self._steps, self._query)
                    beams.append(beam)
                    if beam.finished and not self._finished:  # should the deadline come before the round has ended
                        first = Ballot.to(self._query).filled([beam.candidate])
                        self._publish(replace(first.elect([beam.candidate]), note=""))
        except EngineError as error:
            return beams, error
        return beams, None

    def _draw(self, query: Query, root: Beam | None, *, n: int, max_tokens: int) -> AsyncGenerator[Candidate, None]:
        scorer = self._tools.scorer
        return self._tools.sampler.draw(
            query,
            n=n,
            prefix=root.candidate.text if root is not None else "",
            stop=self._steps.stop,
            max_tokens=max_tokens,
            top_logprobs=scorer.needs_top_logprobs if scorer is not None else None,
        )

    async def _select(self, beams: Sequence[Beam]) -> list[Beam]:
        """Score a round's beams, set aside those that are done, and return those to go on with."""
        done = in_order([beam for beam in beams if beam.done])
        live = distinct([beam for beam in beams if not beam.done])
        done, live = await self._scored(done, live)
        self._finished += best_first([beam for beam in done if beam.finished])
        self._cut += [beam for beam in done if not beam.finished]
        for beam in done:
            self._ballot.cast(beam.candidate)
        await self._ballot.reconcile(self._tools.equivalence)
        return survivors(live, self._kept, self._keep)

    async def _scored(self, done: list[Beam], live: list[Beam]) -> tuple[list[Beam], list[Beam]]:
        """The same beams with their scores, a round's together. Where the scorer fails, with none."""
        scorer = self._tools.scorer
        if scorer is None or self._failure:
            return done, live
        beams = [*done, *live]
        try:
            seen = [beam.candidate for beam in done] + await self._ahead(done, live)
            if scorer.needs_top_logprobs is not None and all(c.logprobs is None for c in seen):
                raise ScorerError("the engine sent no logprobs")
            scores = await self._ask(scorer, seen)
        except ScorerError as error:
            self._fall_back(str(error))
            return done, live
        marked = [scored(beam, score) for beam, score in zip(beams, scores, strict=True)]
        self._scores |= {b.candidate.index: b.candidate.score for b in marked if b.candidate.score is not None}
        return marked[: len(done)], marked[len(done) :]

    async def _ask(self, scorer: Scorer, seen: Sequence[Candidate]) -> Sequence[float | None]:
        """Scorers that are asked about one candidate at a time are asked about all of a round at once."""
        if scorer.pace != "each":
            return await scorer.score(self._query, seen)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._opinion(scorer, candidate)) for candidate in seen]
        except ExceptionGroup as failures:
            failed, others = failures.split(ScorerError)
            if failed is None or others is not None:
                raise
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _opinion(self, scorer: Scorer, candidate: Candidate) -> float | None:
        (score,) = await scorer.score(self._query, [candidate])
        return score

    def _fall_back(self, failure: str) -> None:
        """Beams that have a score are not compared with those that have none: from now on none has."""
        self._failure, self._scores = failure, {}
        self._finished = [scored(beam, None) for beam in self._finished]
        self._cut = [scored(beam, None) for beam in self._cut]
        self._ballot = Ballot.to(self._query).filled(beam.candidate for beam in [*self._finished, *self._cut])

    async def _ahead(self, done: Sequence[Beam], live: Sequence[Beam]) -> list[Candidate]:
        """What the live beams are scored by: themselves, or with look-ahead what they would say next.

        Only in subtrees that will drop a beam, and only if that takes no more than half of the tokens that remain.
        """
        held = [*self._finished, *(beam for beam in done if beam.finished)]
        crowded = {
            tree
            for tree in range(self._trees)
            if sum(b.tree == tree for b in live) + sum(b.tree == tree for b in distinct(held)) > self._keep
        }
        chosen = [beam for beam in live if beam.tree in crowded] if self._lookahead else []
        if 2 * sum(room(b, self._steps, self._query) for b in chosen) > self._tools.sampler.remaining:
            chosen, self._narrowed = [], True
        async with asyncio.TaskGroup() as group:
            tasks = {id(beam): group.create_task(self._roll_out(beam)) for beam in chosen}
        return [tasks[id(beam)].result() if id(beam) in tasks else beam.candidate for beam in live]

    async def _roll_out(self, beam: Beam) -> Candidate:
        """One more step, drawn greedily. The beam itself where the engine fails."""
        query = replace(self._query, sampling={**self._query.sampling, "temperature": 0})
        tokens = room(beam, self._steps, query)
        try:
            async with aclosing(self._draw(query, beam, n=1, max_tokens=tokens)) as stream:
                async for piece in stream:
                    return grown(beam, piece, self._steps, query).candidate
        except EngineError:
            pass
        return beam.candidate

    def _settled(self, live: Sequence[Beam], *, rounds_left: int) -> bool:
        """As many finished beams as answers are wanted that no live beam can overtake: exact, see `beaten`."""
        best = ranked(self._kept)
        if len(best) < self._query.answers or self._failure:
            return False
        by = best[self._query.answers - 1]
        most = min(self._tools.sampler.remaining, rounds_left * self._steps.tokens)
        limit = self._query.max_tokens

        def tokens_left(beam: Beam) -> int:
            return most if limit is None else min(most, limit - beam.candidate.tokens)

        return all(beaten(beam, by, self._tools.scorer, tokens_left=tokens_left(beam)) for beam in live)

    def _answer(self, live: Sequence[Beam]) -> Answer:
        """The best finished beam, or the best partial one while none has finished. If the scorer failed, the vote's."""
        answers = self._query.answers
        if self._failure and self._finished:
            note = f"the scorer failed ({self._failure}), so the majority vote decided"
            return self._told(self._ballot.vote(answers=answers), note)
        finished = sorted(ranked(self._finished), key=lambda beam: self._ballot.keeps(beam.candidate), reverse=True)
        ranking = [beam.candidate for beam in [*finished, *best_first(self._cut), *best_first(live)]]
        note = f"the scorer failed ({self._failure}), so the most probable was kept" if self._failure else ""
        return replace(self._told(self._ballot.elect(ranking, answers=answers), note), scores=dict(self._scores))

    def _told(self, answer: Answer, note: str) -> Answer:
        return replace(answer, note="; ".join(filter(None, (note, self._ballot.breach(answer.winners)))))

    @property
    def _kept(self) -> list[Beam]:
        """The finished beams that break none of the request's demands: only these hold a place."""
        return [beam for beam in self._finished if self._ballot.keeps(beam.candidate)]
