"""Step-level beam search: its decisions one by one, and whole searches over a scripted engine."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.boosted import Boosted
from router.features import extract
from router.speed import Load
from strategies.anytime import run
from strategies.beam_search import UNBEATABLE, Steps
from strategies.beams import Beam, beaten, distinct, grown, joint, shares, survivors
from strategies.ledger import Ledger
from strategies.registry import strategies
from strategies.sampling import MeteredSampler
from strategies.scorers import SCORERS
from strategies.scorers.mean_logprob import MeanLogprob
from strategies.spec import StrategySpec
from strategies.types import (
    Answer,
    Bounded,
    Candidate,
    Delta,
    LogprobSummary,
    Pace,
    Publish,
    Query,
    Scorer,
    ScorerError,
    Tools,
)
from tests.fakes import FAR, Call, Choice, Piece, ScriptedEngine, TextScorer, ask, menu_of, says

pytestmark = pytest.mark.anyio

STEPS = Steps(stop=("\n\n",), tokens=8, max_steps=4)


class RecordingEngine(ScriptedEngine):
    """Also remembers at what temperature each call was made."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.temperatures: list[float | None] = []

    async def sample(self, query: Query, **options: Any) -> AsyncGenerator[Delta, None]:
        self.temperatures.append(query.sampling.get("temperature"))
        async for delta in super().sample(query, **options):
            yield delta


class Search:
    """One search, with everything there is to look at afterwards."""

    def __init__(
        self,
        written: str,
        script: Any,
        query: Query | None = None,
        *,
        steps: Steps = STEPS,
        scorer: Scorer | None = None,
        capacity: int = 10_000,
        max_n: int = 64,
    ) -> None:
        if isinstance(script, Mapping):  # continuations by the prefix that they continue
            branches: Mapping[str, Sequence[Choice]] = script
            script = lambda call, number: branches[call.prefix][number]  # noqa: E731
        self.spec = StrategySpec.parse(written)
        self.engine = RecordingEngine(script, max_n=max_n)
        self.query = query or ask()
        self.ledger = Ledger(capacity)
        self.sampler = MeteredSampler(self.engine, self.ledger, default_max_tokens=100)
        self.tools = Tools(sampler=self.sampler, scorer=scorer or SCORERS[self.spec.scorer or "mean_logprob"])
        self.published: list[Answer] = []
        self._strategy = strategies(steps)["beam_search"]

    async def run(self, *, seconds: float | None = None) -> Answer:
        async def watched(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
            def note(answer: Answer) -> None:
                self.published.append(answer)
                publish(answer)

            return await self._strategy(query, spec, tools, note)

        deadline = FAR if seconds is None else time.monotonic() + seconds
        try:
            return await run(watched, self.query, self.spec, self.tools, self.sampler, deadline=deadline)
        finally:
            assert self.engine.opened == self.engine.closed, "work was left on the engine"

    @property
    def prefixes(self) -> list[str]:
        return [call.prefix for call in self.engine.calls]


def step(text: str, *, tokens: int = 1, mean: float | None = None, mark: str = "\n\n") -> Choice:
    """A continuation that comes to the end of a step; as with real engines, without the mark."""
    return Choice(pieces=says(text, tokens=tokens, mean=mean).pieces, stop_reason=mark)


def best(answer: Answer) -> str:
    return answer.winners[0].text


def beam(text: str, *, score: float = 0.0, index: int = 0, tree: int = 0, **fields: Any) -> Beam:
    candidate = Candidate(
        index=index, text=text, tokens=1, finish_reason="stop" if fields.get("done") else None, score=score
    )
    return Beam(candidate=candidate, tree=tree, **fields)


# --- where a step ends


async def test_any_of_several_marks_ends_a_step_and_all_are_asked_for() -> None:
    steps = replace(STEPS, stop=("\n\n", "## Step"))
    script = {
        "": [step("Think.", mark="## Step")],
        "Think.## Step": [step(" 2: 3 + 4")],
        "Think.## Step 2: 3 + 4\n\n": [says("7")],
    }
    search = Search("beam_search@1x1", script, steps=steps)
    assert best(await search.run()) == "Think.## Step 2: 3 + 4\n\n7"
    assert {call.stop for call in search.engine.calls} == {("\n\n", "## Step")}


async def test_without_marks_only_tokens_end_a_step() -> None:
    script = {"": [Choice(pieces=[Piece(text="x\n\n")] * 20)], "x\n\n" * 8: [says("7")]}
    search = Search("beam_search@1x1", script, steps=replace(STEPS, stop=()))
    assert best(await search.run()) == "x\n\n" * 8 + "7"
    assert {call.stop for call in search.engine.calls} == {()}


@pytest.mark.parametrize(
    ("mark", "kept"),
    [("\n\n", "\n\n"), (". ", "."), (".\t ", "."), (" ", " "), ("\n", "\n"), ("\n - ", "\n -"), ("##", "##")],
)
def test_a_space_after_a_mark_is_left_to_the_model(mark: str, kept: str) -> None:
    assert joint(mark) == kept


async def test_a_step_that_ends_in_a_space_is_continued_without_it() -> None:
    script = {"": [step("It is 3 + 4", mark=". ")], "It is 3 + 4.": [says(" So 7.")]}
    assert best(await Search("beam_search@1x1", script, steps=replace(STEPS, stop=(". ",))).run()) == (
        "It is 3 + 4. So 7."
    )


async def test_a_piece_that_is_cut_within_white_space_is_continued_as_it_is() -> None:
    """A chunk of tokens may end anywhere; nothing is lost or doubled at the joint."""
    script = {"": [Choice(pieces=[Piece(text="a \n ", tokens=8), Piece()])], "a \n ": [says(" 7")]}
    assert best(await Search("beam_search@1x1", script).run()) == "a \n  7"


async def test_a_beam_of_thoughts_alone_is_set_aside() -> None:
    """An engine takes back what was said, not what was thought, so it would begin anew."""
    thought = Choice(pieces=[Piece(reasoning="hm", tokens=8), Piece()])
    answer = await Search("beam_search@2x1", {"": [thought, step("a")], "a\n\n": [says("7")]}).run()
    assert best(answer) == "a\n\n7"


# --- the same text twice


async def test_continuations_that_differ_in_white_space_are_one_beam_the_more_probable() -> None:
    script = {"": [step("a  b", mean=-2.0), step("a b", mean=-0.1), step("a\nb", mean=-1.0)], "a b\n\n": [says("7")]}
    search = Search("beam_search@3x1", script)
    await search.run()
    assert search.prefixes == ["", "a b\n\n"]


async def test_equal_finished_beams_vote_each_but_hold_one_place() -> None:
    script = {"": [says("7"), says(" 7"), step("a"), step("b")], "a\n\n": [says("8")] * 2}
    scorer = TextScorer(scores={"7": 0.9, " 7": 0.9, "a\n\n": 0.8, "b\n\n": 0.7})
    search = Search("beam_search@2x2", script, scorer=scorer)
    answer = await search.run()
    assert search.prefixes == ["", "a\n\n"]
    assert (best(answer), answer.votes) == ("7", {"7": 2, "8": 2})


def test_only_beams_of_one_subtree_are_merged() -> None:
    assert len(distinct([beam("a", index=0), beam(" a", index=1), beam("a", index=2, tree=1)])) == 2


# --- places


async def test_a_beam_that_was_cut_by_length_holds_no_place() -> None:
    script = {"": [says("x", tokens=4, finish_reason="length"), step("a", tokens=1)], "a\n\n": [says("7")] * 2}
    scorer = TextScorer(scores={"x": 0.9, "a\n\n": 0.1})
    assert best(await Search("beam_search@1x2", script, ask(max_tokens=4), scorer=scorer).run()) == "a\n\n7"


@pytest.mark.parametrize(
    ("finished", "live", "keep", "kept"),
    [
        ([], [("a", 0.5), ("b", 0.6), ("c", 0.4)], 2, ["b", "a"]),
        ([("x", 0.9)], [("a", 0.5), ("b", 0.6)], 2, ["b"]),
        ([("x", 0.1)], [("a", 0.5), ("b", 0.6)], 2, ["b", "a"]),
        ([("x", 0.1), ("y", 0.1)], [("a", 0.5)], 2, []),  # as many finished as there are places
        ([("x", 0.9)], [("a", 0.5)], 1, []),
    ],
)
def test_survivors(finished: Any, live: Any, keep: int, kept: list[str]) -> None:
    ended = [beam(text, score=score, index=i, done=True) for i, (text, score) in enumerate(finished)]
    open_ = [beam(text, score=score, index=9 + i) for i, (text, score) in enumerate(live)]
    assert [b.candidate.text for b in survivors(open_, ended, keep)] == kept


# --- the early end


@dataclass(slots=True, kw_only=True)
class Capped:
    """Scores by text; none is above `cap`."""

    scores: Mapping[str, float]
    cap: float = 1.0
    needs_top_logprobs: int | None = None
    pace: Pace = "at_once"

    async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float]:
        return [self.scores.get(candidate.text, 0.0) for candidate in candidates]

    def bound(self, candidate: Candidate, *, tokens_left: int) -> float:
        return self.cap


async def test_a_perfect_score_ends_the_search() -> None:
    script = {"": [says("7"), step("a"), step("b"), step("c"), step("d"), step("e")]}
    search = Search("beam_search@3x2", script, scorer=Capped(scores={"7": 1.0}))
    answer = await search.run()
    assert (best(answer), answer.note, search.prefixes, answer.cut_short) == ("7", UNBEATABLE, [""], None)


async def test_a_search_goes_on_while_as_many_answers_are_wanted() -> None:
    script = {"": [says("7"), step("a")], "a\n\n": [says("8")]}
    search = Search("beam_search@2x1", script, ask(answers=2), scorer=Capped(scores={"7": 1.0}))
    assert [c.text for c in (await search.run()).winners] == ["7", "a\n\n8"]


@pytest.mark.parametrize(
    ("total", "tokens", "left", "bound"), [(-4.0, 4, 0, -1.0), (-4.0, 4, 4, -0.5), (0.5, 4, 4, 0.0)]
)
def test_the_bound_of_mean_logprob_is_what_certain_tokens_would_make_of_it(
    total: float, tokens: int, left: int, bound: float
) -> None:
    summary = LogprobSummary(tokens=tokens, total=total)
    candidate = Candidate(index=0, text="x", tokens=tokens, finish_reason=None, logprobs=summary)
    assert MeanLogprob().bound(candidate, tokens_left=left) == pytest.approx(2.718281828459045**bound)
    assert MeanLogprob().bound(replace(candidate, logprobs=None), tokens_left=left) == 1.0


async def test_mean_logprob_ends_a_search_that_has_too_few_tokens_left_to_turn() -> None:
    """Sixteen tokens at most: four at -9 can not come to a mean above -2.25."""
    weak = step("weak", tokens=4, mean=-9.0)
    search = Search("beam_search@2x2", {"": [says("7", mean=-0.5), weak, weak, weak]}, ask(max_tokens=16))
    answer = await search.run()
    assert (best(answer), answer.note, search.prefixes) == ("7", UNBEATABLE, [""])
    script = {"": [says("7", mean=-0.5), weak, weak, weak], "weak\n\n": [says("8", mean=-9.0)] * 2}
    long = Search("beam_search@2x2", script, steps=replace(STEPS, max_steps=30))
    assert best(await long.run()) == "7"
    assert long.prefixes == ["", "weak\n\n"]  # over two hundred tokens could turn it


def test_a_scorer_without_a_bound_never_ends_a_search() -> None:
    scorer = TextScorer(scores={})
    assert not isinstance(scorer, Bounded)
    assert not beaten(beam("a"), beam("x", score=1e9, done=True), scorer, tokens_left=0)


class Unbounded(MeanLogprob):
    """The same scores without a bound, so that the search never ends early."""

    bound = None  # type: ignore[assignment]


def random_tree(seed: int, *, delays: int = 0) -> Any:
    """A choice for every prefix and number, always the same; delays: they come in another order."""

    def script(call: Call, number: int) -> Choice:
        rng = random.Random(f"{seed}:{call.prefix}:{number}")
        mean = -rng.choice([0.05, 0.3, 1.0, 3.0, 6.0])
        text = rng.choice(["a", "b", "c"])
        tokens = rng.randint(1, 6)
        choice = says(text, tokens=tokens, mean=mean) if rng.random() < 0.35 else step(text, tokens=tokens, mean=mean)
        wait = random.Random(f"{delays}:{seed}:{call.prefix}:{number}").randint(0, delays) if delays else 0
        return replace(choice, pieces=[*[Piece(tokens=0)] * wait, *choice.pieces])

    return script


SPECS = st.sampled_from(
    ["beam_search@2x2", "beam_search@4x2", "beam_search@3x2:diverse", "beam_search@1x3", "beam_search@2x2:lookahead"]
)


@given(
    seed=st.integers(0, 10_000),
    written=SPECS,
    max_tokens=st.none() | st.integers(4, 24),
    capacity=st.integers(20, 300),
)
@settings(max_examples=150)
async def test_the_early_end_never_changes_the_winner(
    seed: int, written: str, max_tokens: int | None, capacity: int
) -> None:
    query = ask(max_tokens=max_tokens)
    early = Search(written, random_tree(seed), query, capacity=capacity)
    late = Search(written, random_tree(seed), query, scorer=Unbounded(), capacity=capacity)
    one, other = await early.run(), await late.run()
    assert [(c.text, c.score, c.index) for c in one.winners] == [(c.text, c.score, c.index) for c in other.winners]
    assert early.engine.made <= late.engine.made


async def test_the_early_end_saves_tokens() -> None:
    """Over random trees, or the property above would be empty."""
    saved = 0
    for seed in range(60):
        early = Search("beam_search@4x2", random_tree(seed), ask(max_tokens=16))
        late = Search("beam_search@4x2", random_tree(seed), ask(max_tokens=16), scorer=Unbounded())
        await early.run()
        await late.run()
        saved += late.engine.made - early.engine.made
    assert saved > 0


@given(seed=st.integers(0, 10_000), delays=st.integers(1, 9), written=SPECS)
@settings(max_examples=100)
async def test_the_order_of_arrival_makes_no_difference(seed: int, delays: int, written: str) -> None:
    prompt = Search(written, random_tree(seed), ask(max_tokens=20))
    delayed = Search(written, random_tree(seed, delays=delays), ask(max_tokens=20))
    one, other = await prompt.run(), await delayed.run()
    assert (one.winners, one.votes) == (other.winners, other.votes)
    assert prompt.engine.calls == delayed.engine.calls


# --- diverse


async def test_every_subtree_keeps_its_own_best_however_good_the_others_are() -> None:
    """First steps are dealt out in turn: a and c to the first subtree, b and d to the second."""
    script = {
        "": [step("a"), step("b"), step("c"), step("d")],
        "a\n\n": [says("\\boxed{1}"), says("\\boxed{2}")],
        "d\n\n": [says("\\boxed{3}"), says("\\boxed{4}")],
    }
    scores = {"a\n\n": 0.9, "c\n\n": 0.8, "d\n\n": 0.2, "b\n\n": 0.1, "d\n\n\\boxed{4}": 1.0}
    search = Search("beam_search@2x2:diverse", script, scorer=TextScorer(scores=scores))
    answer = await search.run()
    assert sorted(search.prefixes) == ["", "a\n\n", "d\n\n"]  # without `diverse` it would be a and c
    assert (best(answer), answer.votes) == ("d\n\n\\boxed{4}", {"1": 1, "2": 1, "3": 1, "4": 1})


async def test_equal_beams_of_two_subtrees_are_both_grown() -> None:
    script = {"": [step("a"), step("a")], "a\n\n": [says("7")]}
    search = Search("beam_search@2x1:diverse", script)
    await search.run()
    assert search.prefixes == ["", "a\n\n", "a\n\n"]


async def test_a_finished_subtree_leaves_the_others_their_places() -> None:
    script = {"": [says("7"), step("b")], "b\n\n": [says("8")]}
    scorer = TextScorer(scores={"7": 0.9, "b\n\n": 0.1, "b\n\n8": 0.95})
    assert best(await Search("beam_search@2x1:diverse", script, scorer=scorer).run()) == "b\n\n8"


# --- look-ahead


def ahead_of(call: Call) -> bool:
    return call.n == 1  # in these scripts only a roll-out draws a single sequence


async def test_a_beam_is_scored_by_what_it_would_say_next_and_that_is_thrown_away() -> None:
    def script(call: Call, number: int) -> Choice:
        if ahead_of(call):
            return step({"a\n\n": "bad", "b\n\n": "good"}[call.prefix], tokens=3)
        return {"": [step("a"), step("b")], "b\n\n": [says("\\boxed{7}", tokens=2)] * 2}[call.prefix][number]

    scores = {"a\n\n": 0.9, "b\n\n": 0.1, "b\n\ngood\n\n": 0.8, "a\n\nbad\n\n": 0.2, "b\n\n\\boxed{7}": 0.5}
    search = Search("beam_search@1x2:lookahead", script, ask(sampling={"temperature": 0.9}))
    search.tools = replace(search.tools, scorer=TextScorer(scores=scores))
    answer = await search.run()
    assert best(answer) == "b\n\n\\boxed{7}"
    assert search.prefixes == ["", "a\n\n", "b\n\n", "b\n\n"]
    assert search.engine.temperatures == [0.9, 0, 0, 0.9]
    assert answer.winners[0].tokens == 3  # its own: one for the step, two for the end
    assert search.ledger.spent == search.engine.made == 2 + 6 + 4
    assert {call.max_tokens for call in search.engine.calls} == {8}


async def test_nothing_is_looked_ahead_of_where_every_beam_stays() -> None:
    script = {"": [step("a"), step("b")], "a\n\n": [says("7")], "b\n\n": [says("8")]}
    search = Search("beam_search@2x1:lookahead", script)
    await search.run()
    assert len(search.engine.calls) == 3


async def test_look_ahead_is_left_out_when_it_would_take_most_of_the_budget() -> None:
    def script(call: Call, number: int) -> Choice:
        return says("7") if call.prefix else step(f"s{number}", mean=-number - 0.1)

    search = Search("beam_search@1x2:lookahead", script, capacity=20)
    answer = await search.run()
    assert 0 not in search.engine.temperatures
    assert (best(answer), answer.cut_short) == ("s0\n\n7", "tokens")


async def test_a_failing_roll_out_leaves_the_beam_its_own_score() -> None:
    def script(call: Call, number: int) -> Choice:
        if ahead_of(call):
            return Choice(pieces=[], fails=True)
        return {"": [step("a"), step("b")], "a\n\n": [says("7")] * 2}[call.prefix][number]

    search = Search("beam_search@1x2:lookahead", script)
    search.tools = replace(search.tools, scorer=TextScorer(scores={"a\n\n": 1.0}))
    assert best(await search.run()) == "a\n\n7"


# --- budgets, engines, faults


@pytest.mark.parametrize(
    ("wanted", "expansion", "remaining", "answered", "plan"),
    [
        ([8, 8], 2, 100, True, [(2, 8), (2, 8)]),
        ([8, 8], 2, 32, True, [(2, 8), (2, 8)]),
        ([8, 8], 2, 31, True, [(2, 8), (1, 8)]),  # fewer, not shorter, and the better beam first
        ([8, 8], 2, 8, True, [(1, 8), (0, 8)]),
        ([8, 8], 2, 7, True, []),  # no use: there is an answer
        ([8, 8], 2, 7, False, [(1, 7), (0, 0)]),  # the last of it, for an answer
        ([32, 32], 1, 20, True, [(1, 20), (0, 0)]),  # less than a step, but enough to be of use
        ([32], 4, 128, False, [(2, 32)]),  # half is kept for going on
        ([8, 3], 2, 17, True, [(1, 8), (2, 3)]),
        ([8], 1, 0, False, []),
        ([], 1, 9, False, []),
    ],
)
def test_what_a_round_may_draw(wanted: Any, expansion: int, remaining: int, answered: bool, plan: Any) -> None:
    assert shares(wanted, expansion, remaining, answered=answered) == plan


@given(
    wanted=st.lists(st.integers(1, 40), max_size=6),
    expansion=st.integers(1, 5),
    remaining=st.integers(0, 500),
    answered=st.booleans(),
)
def test_no_round_is_planned_over_the_budget(wanted: list[int], expansion: int, remaining: int, answered: bool) -> None:
    plan = shares(wanted, expansion, remaining, answered=answered)
    assert sum(n * tokens for n, tokens in plan) <= remaining
    assert all(0 <= n <= expansion and tokens <= most for (n, tokens), most in zip(plan, wanted, strict=False))
    assert bool(plan) or answered or not wanted or not remaining


async def test_a_last_round_that_is_of_no_use_is_not_started() -> None:
    script = {"": [says("7", tokens=8), step("a", tokens=8)]}
    search = Search("beam_search@2x1", script, ask(max_tokens=40), capacity=32)
    search.tools = replace(search.tools, scorer=TextScorer(scores={"a\n\n": 1.0}))
    search.ledger.reserve(12)  # as if a judge had it
    answer = await search.run()
    assert (best(answer), answer.cut_short, search.prefixes) == ("7", "tokens", [""])


async def test_at_temperature_0_one_sequence_is_drawn_at_a_time() -> None:
    script = {"": [step("a")], "a\n\n": [says("7")]}
    search = Search("beam_search@4x4", script, ask(sampling={"temperature": 0}))
    assert best(await search.run()) == "a\n\n7"
    assert [call.n for call in search.engine.calls] == [1, 1]


async def test_no_call_asks_an_engine_for_more_than_it_takes() -> None:
    search = Search("beam_search@2x3", lambda call, number: says("7") if call.prefix else step("a"), max_n=2)
    await search.run()
    assert [call.n for call in search.engine.calls] == [2, 2, 2, 2, 1]


async def test_nothing_runs_on_the_engine_when_beams_are_dropped() -> None:
    search = Search("beam_search@2x2", random_tree(7))
    opened: list[tuple[int, int]] = []

    class Watching(MeanLogprob):
        async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float]:
            opened.append((search.engine.opened, search.engine.closed))
            return await super().score(query, candidates)

    search.tools = replace(search.tools, scorer=Watching())
    await search.run()
    assert opened
    assert all(one == other for one, other in opened)


async def test_what_came_before_a_call_failed_is_kept() -> None:
    script = {"": [step("a"), Choice(pieces=[Piece()] * 3, fails=True)], "a\n\n": [says("7")] * 2}
    assert best(await Search("beam_search@1x2", script).run()) == "a\n\n7"


async def test_the_first_finished_beam_is_there_at_the_deadline_although_its_round_is_not_over() -> None:
    never = Choice(pieces=[Piece(text="and so"), Piece(after=asyncio.Event())])
    answer = await Search("beam_search@2x1", {"": [says("7"), never]}).run(seconds=0.03)
    assert (best(answer), answer.cut_short) == ("7", "deadline")


class Failing(TextScorer):
    """Fails the second time it is asked."""

    asked = 0

    async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float | None]:
        Failing.asked += 1
        if Failing.asked > 1:
            raise ScorerError("it took too long")
        return await super().score(query, candidates)


async def test_when_the_scorer_fails_the_vote_decides_and_the_note_says_so() -> None:
    Failing.asked = 0
    script = {
        "": [says("\\boxed{8}"), step("a"), step("b"), step("c"), step("d"), step("e")],
        "a\n\n": [says("\\boxed{7}")] * 2,
        "b\n\n": [says("\\boxed{7}")] * 2,
    }
    scorer = Failing(scores={"\\boxed{8}": 0.9, "a\n\n": 0.8, "b\n\n": 0.7})
    answer = await Search("beam_search@3x2", script, scorer=scorer).run()
    assert answer.votes == {"7": 4, "8": 1}
    assert best(answer) == "a\n\n\\boxed{7}"
    assert "it took too long" in answer.note
    assert "majority vote" in answer.note


class OneByOne(TextScorer):
    """Is asked about each beam alone, and fails at "bad" while it thinks about the others."""

    def __init__(self) -> None:
        super().__init__(scores={"a\n\n": 0.9, "b\n\n": 0.8})
        self.pace: Pace = "each"
        self.thinking = self.most = 0

    async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float | None]:
        (candidate,) = candidates
        self.thinking += 1
        self.most = max(self.most, self.thinking)
        try:
            await asyncio.sleep(0.001)
            if candidate.text == "bad":
                raise ScorerError("it was bad")
            await asyncio.sleep(0.001)
        finally:
            self.thinking -= 1
        return await super().score(query, candidates)


async def test_a_scorer_of_one_beam_at_a_time_is_asked_about_a_whole_round_at_once() -> None:
    scorer = OneByOne()
    script = {"": [step("b"), step("a"), step("c")], "a\n\n": [says("7")] * 3}
    assert best(await Search("beam_search@1x3", script, scorer=scorer).run()) == "a\n\n7"
    assert scorer.most == 3


async def test_when_it_fails_at_one_of_them_no_other_is_thought_about() -> None:
    scorer = OneByOne()
    answer = await Search("beam_search@1x3", {"": [says("bad"), says("7"), says("7")]}, scorer=scorer).run()
    assert (best(answer), scorer.thinking) == ("7", 0)
    assert "it was bad" in answer.note


async def test_a_scorer_that_needs_logprobs_of_an_engine_without_says_so() -> None:
    answer = await Search("beam_search@2x1", {"": [says("7"), says("7")]}).run()
    assert "no logprobs" in answer.note


def test_the_trained_model_says_that_it_does_not_know_the_variants() -> None:
    """Not that they do as well as the search it was trained on."""
    model = Boosted.load(Path(__file__).parents[2] / "configs/models/smollm2-135m")
    menu = menu_of("beam_search@4x4", "beam_search@4x4:diverse", "beam_search@4x4:lookahead")
    known, *others = model.predict(extract(ask()), menu, Load(), max_tokens=100)
    assert not known.reason
    assert all("no recorded outcomes" in row.reason for row in others)


def test_a_beam_carries_what_its_steps_add_up_to() -> None:
    one = Candidate(index=0, text="a", tokens=2, finish_reason="stop", stop_reason="\n\n", reasoning="x")
    two = replace(one, index=5, text="b", tokens=3, stop_reason=None, reasoning="y")
    first = grown(None, one, STEPS, ask())
    whole = grown(replace(first, tree=3), two, STEPS, ask())
    assert (first.done, first.candidate.finish_reason) == (False, None)
    assert (whole.done, whole.tree, whole.candidate.text, whole.candidate.tokens) == (True, 3, "a\n\nb", 5)
    assert (whole.candidate.reasoning, whole.candidate.index, whole.finished) == ("xy", 5, True)


# What the request demands

JSON_OBJECT = ask(sampling={"response_format": {"type": "json_object"}})


async def test_a_beam_that_breaks_what_was_asked_for_never_wins_and_holds_no_place() -> None:
    """The more probable one is no JSON; the other has its place to come to an end in."""
    script = {"": [says("no JSON", mean=-0.1), step('{"a":', mean=-1)], '{"a":\n\n': [says("1}", mean=-1)] * 2}
    search = Search("beam_search@1x2", script, JSON_OBJECT)
    answer = await search.run()
    assert best(answer) == '{"a":\n\n1}'
    assert not answer.note
    assert search.prefixes == ["", '{"a":\n\n']


async def test_where_every_beam_breaks_it_the_best_is_returned_and_the_note_says_so() -> None:
    search = Search("beam_search@1x2", {"": [says("no JSON", mean=-1), says("nor this", mean=-2)]}, JSON_OBJECT)
    answer = await search.run()
    assert best(answer) == "no JSON"
    assert answer.note == "no candidate keeps to what was asked for: the text is not JSON"
