"""The strategies, run as the gateway runs them: through `anytime.run` and a metered sampler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from strategies import answers
from strategies.anytime import NothingYet, run
from strategies.beam_search import Steps
from strategies.ledger import CANCEL_SLACK, Ledger
from strategies.registry import strategies
from strategies.sampling import MeteredSampler
from strategies.scorers import SCORERS
from strategies.selection import select
from strategies.spec import StrategySpec
from strategies.types import (
    Answer,
    Budget,
    Candidate,
    Delta,
    EngineError,
    LogprobSummary,
    Publish,
    Query,
    Scorer,
    Strategy,
    Tools,
)
from strategies.voting import Ballot
from tests.fakes import FAR, Call, Choice, Piece, ScriptedEngine, TextScorer, ask, says

pytestmark = pytest.mark.anyio


class Played:
    """One request over a scripted engine, with everything there is to look at afterwards."""

    def __init__(
        self,
        written: str,
        engine: ScriptedEngine,
        query: Query | None = None,
        *,
        steps: Steps | None = None,
        scorer: Scorer | None = None,
        capacity: int = 10_000,
        wave: int | None = None,
    ) -> None:
        self.spec = StrategySpec.parse(written)
        self.engine = engine
        self.query = query or ask()
        self.ledger = Ledger(capacity)
        self.heard: list[Delta | Candidate] = []
        self.sampler = MeteredSampler(engine, self.ledger, default_max_tokens=100, listener=self._listen)
        named = SCORERS[self.spec.scorer] if self.spec.scorer else None
        self.tools = Tools(sampler=self.sampler, scorer=scorer or named, wave=wave)
        self.published: list[Answer] = []
        self._strategy = strategies(steps or Steps())[self.spec.method]

    async def _listen(self, event: Delta | Candidate) -> None:
        self.heard.append(event)

    async def run(self, *, seconds: float | None = None) -> Answer:
        """seconds: until the deadline, for scripts that never end."""

        async def watched(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
            def note(answer: Answer) -> None:
                self.published.append(answer)
                publish(answer)

            return await self._strategy(query, spec, tools, note)

        strategy: Strategy = watched
        deadline = FAR if seconds is None else time.monotonic() + seconds
        try:
            return await run(strategy, self.query, self.spec, self.tools, self.sampler, deadline=deadline)
        finally:
            assert self.engine.opened == self.engine.closed, "work was left on the engine"


def texts(candidates: Sequence[Candidate]) -> list[str]:
    return [candidate.text for candidate in candidates]


def endless(text: str = "", *, tokens: int = 1) -> Choice:
    """Says its text and then never another word."""
    return Choice(pieces=[Piece(text=text, tokens=tokens), Piece(after=asyncio.Event())])


# --- single


async def test_single_passes_one_generation_through() -> None:
    played = Played("single", ScriptedEngine([says("seven", tokens=3)], prompt_tokens=11))
    answer = await played.run()
    assert texts(answer.winners) == ["seven"]
    assert (answer.agreement, answer.cut_short) == (None, None)
    assert (played.ledger.spent, played.sampler.prompt_tokens) == (3, 11)
    assert len(played.engine.calls) == 1
    assert (played.engine.calls[0].n, played.engine.calls[0].top_logprobs) == (1, None)


async def test_single_gives_n_answers_in_the_engines_order_although_they_end_in_another() -> None:
    engine = ScriptedEngine([says("a", tokens=3), says("b", tokens=1), says("c", tokens=2)])
    played = Played("single", engine, ask(answers=3))
    answer = await played.run()
    assert texts(answer.winners) == ["a", "b", "c"]
    assert [texts(each.winners) for each in played.published] == [["b"], ["b", "c"], ["a", "b", "c"]]


async def test_the_clients_max_tokens_and_logprobs_reach_the_engine() -> None:
    played = Played("single", ScriptedEngine([says("x")]), ask(max_tokens=17, logprobs=True, top_logprobs=3))
    await played.run()
    assert (played.engine.calls[0].max_tokens, played.engine.calls[0].top_logprobs) == (17, 3)


async def test_an_answer_that_the_budget_cut_says_so() -> None:
    played = Played("single", ScriptedEngine([says("long", tokens=50)]), capacity=20)
    answer = await played.run()
    assert answer.cut_short == "tokens"
    assert (answer.winners[0].finish_reason, played.ledger.spent) == ("length", 20)


async def test_an_answer_that_the_clients_own_limit_cut_is_not_cut_short() -> None:
    played = Played("single", ScriptedEngine([says("long", tokens=50)]), ask(max_tokens=20))
    answer = await played.run()
    assert (answer.winners[0].finish_reason, answer.cut_short) == ("length", None)


async def test_tool_calls_and_reasoning_are_put_together_from_their_pieces() -> None:
    def call(arguments: str, **more: Any) -> Piece:
        return Piece(
            tool_calls=[{"index": 0, "function": {"arguments": arguments, **more.get("function", {})}, **more}]
        )

    pieces = [
        Piece(reasoning="Let me "),
        Piece(reasoning="see."),
        Piece(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "add", "arguments": ""}}]),
        call('{"a": '),
        call("1}"),
    ]
    choice = Choice(pieces=pieces, finish_reason="tool_calls")
    (winner,) = (await Played("single", ScriptedEngine([choice])).run()).winners
    assert winner.reasoning == "Let me see."
    assert winner.tool_calls == (
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
    )
    assert winner.finished


async def test_a_listener_hears_every_piece_numbered_within_the_request() -> None:
    played = Played("single", ScriptedEngine([says("a"), says("b")], max_n=1), ask(answers=2))
    await played.run()
    pieces = {(event.index, event.text) for event in played.heard if isinstance(event, Delta)}
    assert pieces == {(0, "a"), (1, "b")}
    assert sorted(event.index for event in played.heard if isinstance(event, Candidate)) == [0, 1]


# --- majority vote


async def test_the_largest_group_wins_and_says_how_large_it_is() -> None:
    engine = ScriptedEngine([says("It is 8."), says("\\boxed{7}"), says("Answer: 7"), says("The answer is 7.")])
    answer = await Played("majority_vote@4", engine).run()
    assert answer.winners[0].text == "\\boxed{7}"
    assert (answer.votes, answer.agreement, answer.candidates) == ({"7": 3, "8": 1}, 0.75, 4)
    assert (answer.cut_short, engine.finished) == (None, 1)


async def test_the_winner_is_its_groups_most_probable_member() -> None:
    members = [says("\\boxed{7} a", mean=-2.0), says("\\boxed{7} b", mean=-0.5), says("\\boxed{7} c", mean=-1.0)]
    engine = ScriptedEngine([*members, says("\\boxed{8}", mean=-0.1)])
    answer = await Played("majority_vote@4", engine).run()
    assert texts(answer.winners) == ["\\boxed{7} b"]


async def test_a_vote_that_can_not_change_is_answered_without_waiting_for_the_straggler() -> None:
    engine = ScriptedEngine([says("\\boxed{7}"), endless("hm"), says("\\boxed{7}")])
    played = Played("majority_vote@3", engine)
    answer = await played.run()
    assert texts(answer.winners) == ["\\boxed{7}"]
    assert (answer.cut_short, answer.candidates) == ("consensus", 2)
    assert (engine.closed, engine.finished) == (1, 0)


async def test_a_vote_that_is_likely_enough_is_answered_early_too() -> None:
    engine = ScriptedEngine([*[says("\\boxed{7}")] * 4, *[endless() for _ in range(5)]])
    answer = await Played("majority_vote@9", engine).run()
    assert (answer.cut_short, answer.candidates, answer.votes) == ("consensus", 4, {"7": 4})


async def test_stopped_stragglers_are_charged_for_what_they_may_still_make() -> None:
    engine = ScriptedEngine([endless("hm"), says("\\boxed{7}"), says("\\boxed{7}")])
    played = Played("majority_vote@3", engine)
    await played.run()
    assert (played.ledger.spent, played.ledger.remaining) == (3, 10_000 - 3 - CANCEL_SLACK)


async def test_stragglers_of_other_calls_are_stopped_as_well() -> None:
    engine = ScriptedEngine([says("\\boxed{7}"), says("\\boxed{7}"), endless("hm")], max_n=1)
    answer = await Played("majority_vote@3", engine).run()
    assert answer.cut_short == "consensus"
    assert (engine.opened, engine.closed) == (3, 3)


async def test_a_vote_is_drawn_in_waves_until_it_is_settled() -> None:
    """Four equal answers settle it, so the second wave is stopped at its first candidate."""
    engine = ScriptedEngine([says("\\boxed{7}", tokens=1 + i) for i in range(16)])
    answer = await Played("majority_vote@16", engine, wave=3).run()
    assert [(call.n, call.seed_offset) for call in engine.calls] == [(3, 0), (3, 3)]
    assert (answer.votes, answer.cut_short) == ({"7": 4}, "consensus")


async def test_an_open_vote_is_drawn_to_its_end_and_no_further() -> None:
    engine = ScriptedEngine([says(str(i)) for i in range(7)])
    answer = await Played("majority_vote@7", engine, wave=3).run()
    assert [call.n for call in engine.calls] == [3, 3, 1]
    assert (answer.candidates, answer.cut_short) == (7, None)


async def test_when_time_gets_short_the_rest_is_drawn_at_once() -> None:
    """The first wave takes more than half of what was left, so a third one would come too late."""
    engine = ScriptedEngine([says(str(i)) for i in range(9)])
    query = ask(budget=Budget(max_total_tokens=10_000, deadline=time.monotonic()))  # no time left by the query's clock
    answer = await Played("majority_vote@9", engine, query, wave=2).run()
    assert [call.n for call in engine.calls] == [2, 7]
    assert answer.candidates == 9


async def test_waves_end_with_the_token_budget() -> None:
    engine = ScriptedEngine([says(str(i), tokens=10) for i in range(8)])
    answer = await Played("majority_vote@8", engine, ask(max_tokens=20), wave=2, capacity=45).run()
    assert sum(call.n for call in engine.calls) < 8
    assert answer.cut_short == "tokens"


async def test_a_straggler_does_not_hold_up_the_next_wave() -> None:
    """The first wave's last candidate never ends; the second wave settles the vote without it."""
    engine = ScriptedEngine([says("7"), says("7"), endless("7"), *[says("7")] * 6])
    answer = await Played("majority_vote@9", engine, wave=3).run()
    assert [call.n for call in engine.calls] == [3, 3]
    assert (answer.votes, answer.cut_short) == ({"7": 4}, "consensus")


async def test_a_straggler_of_an_earlier_wave_does_not_count_for_the_next() -> None:
    """It comes beside the first of the second wave, whose half comes later: only then may the third wave go out."""
    late, half = asyncio.Event(), asyncio.Event()
    went_out: list[bool] = []

    def script(call: Call, number: int) -> Choice:
        if (call.seed_offset, number) == (3, 0):
            late.set()
            asyncio.get_running_loop().call_later(0.03, half.set)
        if (call.seed_offset, number) == (6, 0):
            went_out.append(half.is_set())
        waits_for = {2: late, 4: half, 5: half}.get(call.seed_offset + number)
        return says(str(call.seed_offset + number), after=waits_for)

    engine = ScriptedEngine(script)
    answer = await Played("majority_vote@9", engine, wave=3).run()
    assert [call.n for call in engine.calls] == [3, 3, 3]
    assert (answer.candidates, went_out) == (9, [True])


async def test_blank_and_cut_candidates_never_vote() -> None:
    cut, blank = says("\\boxed{8}", finish_reason="length"), says("  ")
    engine = ScriptedEngine([cut, cut, blank, blank, says("\\boxed{7}")])
    answer = await Played("majority_vote@5", engine).run()
    assert (answer.winners[0].text, answer.votes, answer.agreement) == ("\\boxed{7}", {"7": 1}, 1.0)
    assert answer.candidates == 5


async def test_where_nobody_can_vote_the_longest_is_returned_and_the_note_says_so() -> None:
    engine = ScriptedEngine([says("one", finish_reason="length"), says("two", tokens=2, finish_reason="length")])
    answer = await Played("majority_vote@2", engine).run()
    assert (answer.winners[0].text, answer.agreement, answer.votes) == ("two", None, {})
    assert "could vote" in answer.note


async def test_several_answers_are_the_best_of_every_group_first() -> None:
    engine = ScriptedEngine([says("\\boxed{7}"), says("\\boxed{8}"), says("\\boxed{7} again"), says("\\boxed{7} yes")])
    answer = await Played("majority_vote@4", engine, ask(answers=3)).run()
    assert texts(answer.winners) == ["\\boxed{7}", "\\boxed{8}", "\\boxed{7} again"]


async def test_a_settled_vote_still_waits_for_as_many_answers_as_were_asked_for() -> None:
    engine = ScriptedEngine([says("\\boxed{7}", tokens=k) for k in (1, 2, 3, 4)])
    answer = await Played("majority_vote@4", engine, ask(answers=4)).run()
    assert (len(answer.winners), answer.cut_short) == (4, None)


async def test_a_letter_is_voted_on_where_the_question_offers_letters() -> None:
    engine = ScriptedEngine([says("B) Paris"), says("(A)"), says("The answer is B.")])
    answer = await Played("majority_vote@3", engine, ask("Which?\nA) Rome\nB) Paris")).run()
    assert (answer.votes, answer.winners[0].text) == ({"B": 2, "A": 1}, "B) Paris")


def test_the_order_of_arrival_makes_no_difference_to_a_vote() -> None:
    drawn = [Candidate(index=i, text=t, tokens=1, finish_reason="stop") for i, t in enumerate(["8", "7", "7", "8", ""])]
    assert Ballot.of(drawn, form=None).vote() == Ballot.of(drawn[::-1], form=None).vote()


# --- candidates that a failing call has lost

LOST = Choice(pieces=[Piece()] * 3, fails=True)
REDRAWING = pytest.mark.parametrize("method", ["majority_vote", "best_of_n"])


@REDRAWING
async def test_lost_candidates_are_drawn_again(method: str) -> None:
    engine = ScriptedEngine([says("1"), LOST, says("2"), says("3")], max_n=1)
    answer = await Played(f"{method}@3", engine).run()
    assert (answer.votes, answer.cut_short) == ({"1": 1, "2": 1, "3": 1}, None)
    assert engine.calls[-1].seed_offset == 3


@REDRAWING
async def test_lost_candidates_are_drawn_again_although_no_other_has_come(method: str) -> None:
    engine = ScriptedEngine([LOST, LOST, says("1"), says("2")])
    answer = await Played(f"{method}@2", engine).run()
    assert (answer.votes, answer.cut_short) == ({"1": 1, "2": 1}, None)
    assert [call.n for call in engine.calls] == [2, 2]


async def test_a_first_wave_that_fails_does_not_fail_the_vote() -> None:
    engine = ScriptedEngine([LOST, LOST, *[says(str(i)) for i in range(4)]])
    answer = await Played("majority_vote@4", engine, wave=2).run()
    assert (answer.candidates, answer.cut_short) == (4, None)
    assert [(call.n, call.seed_offset) for call in engine.calls] == [(2, 0), (2, 2), (2, 4)]


@REDRAWING
async def test_lost_candidates_are_drawn_again_once_only(method: str) -> None:
    engine = ScriptedEngine([says("1"), LOST, LOST], max_n=1)
    answer = await Played(f"{method}@2", engine).run()
    assert (answer.votes, answer.cut_short, answer.note) == ({"1": 1}, "engine_error", "scripted failure")
    assert len(engine.calls) == 3


@REDRAWING
async def test_lost_candidates_are_drawn_again_within_the_token_budget_only(method: str) -> None:
    """What is left of it after the loss is none."""
    engine = ScriptedEngine([says("1", tokens=20), LOST], max_n=1)
    played = Played(f"{method}@2", engine, ask(max_tokens=20), capacity=40)
    answer = await played.run()
    assert (answer.votes, answer.cut_short, answer.note) == ({"1": 1}, "engine_error", "scripted failure")
    assert len(engine.calls) == 2


@REDRAWING
async def test_a_failure_that_the_budget_can_not_make_good_is_the_requests_error(method: str) -> None:
    """Not the budget's end, which is only why nothing was tried again."""
    engine = ScriptedEngine([Choice(pieces=[], fails=True)] * 2)
    with pytest.raises(EngineError, match="scripted failure"):
        await Played(f"{method}@2", engine, ask(max_tokens=20), capacity=40).run()
    assert len(engine.calls) == 1


@REDRAWING
@pytest.mark.parametrize(("status", "calls"), [(400, 1), (429, 1), (500, 2), (503, 2)])
async def test_what_the_engine_refuses_is_not_asked_again(method: str, status: int, calls: int) -> None:
    def refuse(call: Call, number: int) -> Choice:
        raise EngineError("scripted refusal", status=status)

    engine = ScriptedEngine(refuse)
    with pytest.raises(EngineError, match="scripted refusal"):
        await Played(f"{method}@4", engine).run()
    assert len(engine.calls) == calls


class BreaksOff(ScriptedEngine):
    """Fails where it should end its stream."""

    async def sample(self, query: Query, *, n: int, **how: Any) -> AsyncGenerator[Delta, None]:
        async with aclosing(super().sample(query, n=n, **how)) as stream:
            async for delta in stream:
                yield delta
        raise EngineError("broke off")


@REDRAWING
async def test_a_failure_after_the_last_candidate_has_lost_nothing(method: str) -> None:
    engine = BreaksOff([says("1"), says("2")])
    answer = await Played(f"{method}@2", engine).run()
    assert (answer.candidates, answer.cut_short) == (2, None)
    assert len(engine.calls) == 1


# --- best of n


def rated(text: str, mean: float, certainty: float = 0.0) -> Choice:
    return says(text, mean=mean, certainty=certainty)


RATED = [
    rated("\\boxed{7} a", -0.7, 4.0),
    rated("\\boxed{8}", -0.2, 5.0),
    rated("\\boxed{7} b", -0.5, 3.0),
    rated("\\boxed{9}", -3.0, 6.0),
]


@pytest.mark.parametrize(
    ("written", "winner", "agreement"),
    [
        ("best_of_n@4", "\\boxed{8}", 0.25),  # e^-0.2 is the largest
        ("best_of_n@4:weighted", "\\boxed{7} b", 0.5),  # e^-0.7 + e^-0.5 > e^-0.2
        ("best_of_n@4:self_certainty", "\\boxed{9}", 0.25),
        ("best_of_n@4:self_certainty:weighted", "\\boxed{7} a", 0.5),  # 4 + 3 > 6
    ],
)
async def test_the_scorer_picks_alone_or_summed_over_equal_answers(written: str, winner: str, agreement: float) -> None:
    answer = await Played(written, ScriptedEngine(RATED)).run()
    assert (answer.winners[0].text, answer.agreement, answer.candidates) == (winner, agreement, 4)
    assert answer.votes == {"7": 2, "8": 1, "9": 1}


@pytest.mark.parametrize(("written", "top"), [("best_of_n@4", 0), ("best_of_n@4:self_certainty", 5)])
async def test_a_scorer_asks_the_engine_for_the_logprobs_it_needs(written: str, top: int) -> None:
    engine = ScriptedEngine(RATED)
    await Played(written, engine).run()
    assert [call.top_logprobs for call in engine.calls] == [top]


async def test_best_of_n_publishes_the_best_so_far_after_every_candidate() -> None:
    played = Played("best_of_n@4", ScriptedEngine(RATED))
    await played.run()
    assert [each.winners[0].text for each in played.published] == ["\\boxed{7} a", *["\\boxed{8}"] * 3]


async def test_the_best_score_does_not_win_with_an_answer_that_is_cut_or_blank() -> None:
    cut = Choice(pieces=rated("\\boxed{8}", -0.1).pieces, finish_reason="length")
    answer = await Played("best_of_n@3", ScriptedEngine([cut, rated("", -0.1), rated("\\boxed{7}", -2.0)])).run()
    assert answer.winners[0].text == "\\boxed{7}"


def test_several_answers_are_ranked_by_score_or_by_their_groups() -> None:
    scores = {"7": 0.5, "7 ": 0.4, "8": 0.6, "": 0.9}
    drawn = [
        Candidate(index=i, text=text, tokens=1, finish_reason="stop", score=score)
        for i, (text, score) in enumerate(scores.items())
    ]
    assert texts(select(Ballot.of(drawn, form=None), rule="naive", answers=4).winners) == ["8", "7", "7 ", ""]
    assert texts(select(Ballot.of(drawn, form=None), rule="weighted", answers=4).winners) == ["7", "8", "7 ", ""]


async def score(name: str, logprobs: LogprobSummary | None) -> float:
    (value,) = await SCORERS[name].score(
        ask(), [Candidate(index=0, text="x", tokens=1, finish_reason="stop", logprobs=logprobs)]
    )
    return value


async def test_scores_are_means_over_tokens() -> None:
    summary = LogprobSummary(tokens=4, total=-2.0, certainty=9.0, certain_tokens=3)
    assert await score("mean_logprob", summary) == pytest.approx(0.6065, abs=1e-4)
    assert await score("self_certainty", summary) == 3.0


@pytest.mark.parametrize("name", list(SCORERS))
@pytest.mark.parametrize("logprobs", [None, LogprobSummary()])
async def test_a_candidate_without_logprobs_scores_0(name: str, logprobs: LogprobSummary | None) -> None:
    assert await score(name, logprobs) == 0.0


# --- beam search

STEPS = Steps(stop=("\n\n",), tokens=8, max_steps=4)


def step(text: str, *, tokens: int = 1, mean: float | None = None) -> Choice:
    """A continuation that comes to the end of a step; as with real engines, without the stop string."""
    choice = says(text, tokens=tokens, mean=mean)
    return Choice(pieces=choice.pieces, stop_reason="\n\n")


def tree(branches: Mapping[str, Sequence[Choice]]) -> ScriptedEngine:
    """Continuations by the prefix they continue. A prefix that is not there is a failing test."""
    return ScriptedEngine(lambda call, number: branches[call.prefix][number])


def prefixes(engine: ScriptedEngine) -> list[str]:
    return [call.prefix for call in engine.calls]


async def test_a_beam_grows_by_exactly_what_it_said_with_its_step_boundary() -> None:
    weak = step("weak", mean=-9.0)
    engine = tree(
        {
            "": [step("3 + 4", tokens=2, mean=-0.1), weak],
            "3 + 4\n\n": [weak, step("= 7", tokens=3, mean=-0.1)],
            "3 + 4\n\n= 7\n\n": [says("Answer: 7", tokens=4, mean=-0.1), weak],
        }
    )
    played = Played("beam_search@1x2", engine, steps=STEPS)
    answer = await played.run()
    (winner,) = answer.winners
    assert winner.text == "3 + 4\n\n= 7\n\nAnswer: 7"
    assert prefixes(engine) == ["", "3 + 4\n\n", "3 + 4\n\n= 7\n\n"]
    assert [(call.n, call.stop, call.max_tokens) for call in engine.calls] == [(2, ("\n\n",), 8)] * 3
    assert (winner.tokens, winner.finish_reason, answer.cut_short) == (9, "stop", None)
    assert winner.logprobs is not None
    assert (winner.logprobs.tokens, winner.logprobs.mean) == (9, pytest.approx(-0.1))
    assert played.ledger.spent == engine.made == 12  # the beams that were dropped cost as well
    published = dict.fromkeys(texts([each.winners[0] for each in played.published]))
    assert list(published) == ["3 + 4\n\n", "3 + 4\n\n= 7\n\n", winner.text]


async def test_the_width_best_beams_are_continued_and_no_other() -> None:
    engine = tree(
        {
            "": [step("a"), step("b"), step("c"), step("d")],
            "b\n\n": [says("\\boxed{1}"), says("\\boxed{2}")],
            "c\n\n": [says("\\boxed{3}"), says("\\boxed{4}")],
        }
    )
    scores = {"a\n\n": 0.1, "b\n\n": 0.9, "c\n\n": 0.8, "d\n\n": 0.2, "c\n\n\\boxed{3}": 1.0}
    answer = await Played("beam_search@2x2", engine, steps=STEPS, scorer=TextScorer(scores=scores)).run()
    assert (engine.calls[0].n, engine.calls[1].n) == (4, 2)
    assert sorted(prefixes(engine)) == ["", "b\n\n", "c\n\n"]
    assert answer.winners[0].text == "c\n\n\\boxed{3}"
    assert answer.votes == {"1": 1, "2": 1, "3": 1, "4": 1}


async def test_finished_beams_stand_aside_and_can_win_in_the_end() -> None:
    engine = tree({"": [says("\\boxed{7}"), step("a")], "a\n\n": [says("\\boxed{8}")]})
    scores = {"\\boxed{7}": 0.9, "a\n\n": 0.5, "a\n\n\\boxed{8}": 0.7}
    played = Played("beam_search@2x1", engine, ask(answers=2), steps=STEPS, scorer=TextScorer(scores=scores))
    answer = await played.run()
    assert prefixes(engine) == ["", "a\n\n"]
    assert texts(answer.winners) == ["\\boxed{7}", "a\n\n\\boxed{8}"]
    assert answer.votes == {"7": 1, "8": 1}


async def test_a_beam_that_finished_ones_push_out_is_not_gone_on_with() -> None:
    """A finished beam holds one of the two places, so that only one more is worth its tokens."""
    engine = tree(
        {
            "": [says("\\boxed{7}"), step("a"), step("b"), step("c")],
            "a\n\n": [says("\\boxed{8}"), says("\\boxed{9}")],
        }
    )
    scores = {"\\boxed{7}": 0.9, "a\n\n": 0.8, "b\n\n": 0.7, "c\n\n": 0.6}
    answer = await Played("beam_search@2x2", engine, steps=STEPS, scorer=TextScorer(scores=scores)).run()
    assert prefixes(engine) == ["", "a\n\n"]
    assert answer.winners[0].text == "\\boxed{7}"


async def test_equal_continuations_are_one_beam() -> None:
    engine = tree({"": [step("a"), step("a")], "a\n\n": [says("\\boxed{7}")]})
    await Played("beam_search@2x1", engine, steps=STEPS).run()
    assert prefixes(engine) == ["", "a\n\n"]


async def test_beam_search_ends_at_max_steps_with_the_best_partial_solution() -> None:
    engine = ScriptedEngine(lambda call, number: step("go"))
    answer = await Played("beam_search@2x2", engine, steps=STEPS).run()
    assert answer.winners[0].text == "go\n\n" * STEPS.max_steps
    assert answer.winners[0].finish_reason is None
    assert answer.note.endswith("so the most probable was kept; stopped after 4 steps")  # both are worth knowing
    assert len(engine.calls) == STEPS.max_steps


async def test_a_step_of_full_length_goes_on_without_a_boundary() -> None:
    full = Choice(pieces=[Piece(text="x")] * 20)
    engine = tree({"": [full], "x" * 8: [says("!")]})
    answer = await Played("beam_search@1x1", engine, steps=STEPS).run()
    assert texts(answer.winners) == ["x" * 8 + "!"]


async def test_a_beam_is_no_longer_than_the_client_allows() -> None:
    engine = ScriptedEngine(lambda call, number: Choice(pieces=[Piece(text="x")] * 20))
    played = Played("beam_search@1x1", engine, ask(max_tokens=10), steps=STEPS)
    (winner,) = (await played.run()).winners
    assert [call.max_tokens for call in engine.calls] == [8, 2]
    assert (winner.text, winner.tokens, winner.finish_reason) == ("x" * 10, 10, "length")


async def test_beam_search_out_of_tokens_returns_what_it_has() -> None:
    engine = ScriptedEngine(lambda call, number: Choice(pieces=[Piece(text="x")] * 20))
    played = Played("beam_search@1x1", engine, steps=STEPS, capacity=20)
    answer = await played.run()
    assert [call.max_tokens for call in engine.calls] == [8, 8, 4]
    assert (answer.winners[0].text, answer.cut_short, played.ledger.spent) == ("x" * 20, "tokens", 20)


@pytest.mark.parametrize("stop", ["\n\n", ["Q:", "\n\n"]])
async def test_a_step_boundary_that_the_client_named_as_a_stop_ends_the_answer(stop: Any) -> None:
    engine = tree({"": [step("7")]})
    answer = await Played("beam_search@1x1", engine, ask(sampling={"stop": stop}), steps=STEPS).run()
    assert (answer.winners[0].text, answer.winners[0].finish_reason) == ("7", "stop")


async def test_a_failing_branch_leaves_the_others() -> None:
    engine = tree({"": [step("a"), step("b")], "a\n\n": [Choice(pieces=[], fails=True)], "b\n\n": [says("7")]})
    answer = await Played("beam_search@2x1", engine, steps=STEPS).run()
    assert (answer.winners[0].text, answer.cut_short) == ("b\n\n7", None)


async def test_when_every_branch_fails_the_best_partial_solution_is_returned_and_flagged() -> None:
    broken = [Choice(pieces=[Piece(text="half")], fails=True)]
    engine = tree({"": [step("a"), step("b")], "a\n\n": broken, "b\n\n": broken})
    scorer = TextScorer(scores={"b\n\n": 1.0})
    answer = await Played("beam_search@2x1", engine, steps=STEPS, scorer=scorer).run()
    assert (texts(answer.winners), answer.cut_short) == (["b\n\n"], "engine_error")


async def test_at_the_deadline_a_beam_search_returns_a_beam_and_no_loose_step() -> None:
    engine = tree({"": [step("a")], "a\n\n": [endless("and then a much longer step", tokens=7)]})
    answer = await Played("beam_search@1x1", engine, ask(answers=2), steps=STEPS).run(seconds=0.02)
    assert (texts(answer.winners), answer.cut_short) == (["a\n\n"], "deadline")


# --- engines that take fewer sequences a call, and budgets that allow fewer


async def test_an_engine_that_takes_two_at_a_time_is_called_three_times_for_five() -> None:
    engine = ScriptedEngine([says(f"\\boxed{{{i}}}") for i in range(5)], max_n=2, prompt_tokens=10)
    played = Played("majority_vote@5", engine)
    answer = await played.run()
    assert sorted((call.seed_offset, call.n) for call in engine.calls) == [(0, 2), (2, 2), (4, 1)]
    assert (answer.candidates, answer.votes) == (5, {str(i): 1 for i in range(5)})
    assert [candidate.text for candidate in played.sampler.candidates] == [f"\\boxed{{{i}}}" for i in range(5)]
    assert (played.sampler.prompt_tokens, engine.finished) == (30, 3)


async def test_a_small_budget_draws_fewer_candidates() -> None:
    engine = ScriptedEngine([says("\\boxed{7}", tokens=9)] * 8)
    played = Played("majority_vote@8", engine, capacity=40)
    answer = await played.run()
    assert [(call.n, call.max_tokens) for call in engine.calls] == [(2, 20)]
    assert (answer.candidates, played.sampler.drew_fewer, answer.cut_short) == (2, True, "tokens")


async def test_the_engines_own_count_is_what_is_paid_for() -> None:
    choice = Choice(pieces=[Piece(text="7", tokens=5)], total_tokens=3)
    played = Played("single", ScriptedEngine([choice]))
    (winner,) = (await played.run()).winners
    assert (winner.tokens, played.ledger.spent) == (3, 3)


async def test_an_engine_that_ignores_max_tokens_is_cut_and_not_listened_to_any_longer() -> None:
    endlessly = Choice(pieces=[Piece(text="x")] * 1000)
    late = Choice(pieces=[*[Piece(tokens=0)] * 20, Piece(text="\\boxed{7}")])
    engine = ScriptedEngine([endlessly, late], honours_max_tokens=False)
    played = Played("majority_vote@2", engine, ask(max_tokens=5))
    answer = await played.run()
    assert texts(answer.winners) == ["\\boxed{7}"]
    cut = played.sampler.candidates[0]
    assert (cut.text, cut.tokens, cut.finish_reason) == ("x" * 5, 5, "length")
    assert (played.ledger.spent, engine.closed) == (6, 1)
    assert engine.made < 50


# --- deadlines and failures


async def test_at_the_deadline_the_best_answer_so_far_is_returned() -> None:
    engine = ScriptedEngine([says("\\boxed{7}"), endless("hm", tokens=5), endless()])
    answer = await Played("majority_vote@3", engine).run(seconds=0.02)
    assert (texts(answer.winners), answer.cut_short, answer.candidates) == (["\\boxed{7}"], "deadline", 1)
    assert engine.finished == 0


async def test_at_the_deadline_who_asked_for_n_answers_gets_unfinished_ones_too() -> None:
    engine = ScriptedEngine([endless("short"), says("done"), endless("the longest", tokens=5)])
    answer = await Played("single", engine, ask(answers=3)).run(seconds=0.02)
    assert texts(answer.winners) == ["done", "the longest", "short"]


@pytest.mark.parametrize("written", ["single", "majority_vote@2", "best_of_n@2", "beam_search@1x2"])
async def test_before_the_first_answer_the_deadline_returns_the_partial_one(written: str) -> None:
    engine = ScriptedEngine([endless("The"), endless("The answer", tokens=2)])
    answer = await Played(written, engine).run(seconds=0.02)
    (winner,) = answer.winners
    assert (winner.text, answer.cut_short) == ("The" if written == "single" else "The answer", "deadline")
    assert (winner.finish_reason, answer.agreement) == (None, None)


@pytest.mark.parametrize("written", ["single", "majority_vote@2", "best_of_n@2", "beam_search@2x1"])
async def test_a_deadline_before_the_first_token_leaves_nothing_to_return(written: str) -> None:
    engine = ScriptedEngine([Choice(pieces=[Piece(after=asyncio.Event())])] * 2)
    with pytest.raises(NothingYet):
        await Played(written, engine).run(seconds=0.02)
    assert engine.closed == 1


async def test_an_event_lets_a_straggler_finish() -> None:
    """The engine's own clockwork: a choice that waits goes on once its event is set."""
    event = asyncio.Event()
    engine = ScriptedEngine([says("late", after=event)])
    task = asyncio.create_task(Played("single", engine).run())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    event.set()
    assert texts((await task).winners) == ["late"]


async def test_a_cancelled_request_stops_the_work_on_the_engine() -> None:
    engine = ScriptedEngine([endless("a"), endless("b")], max_n=1)
    task = asyncio.create_task(Played("majority_vote@2", engine).run())
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (engine.opened, engine.closed) == (2, 2)


@pytest.mark.parametrize("written", ["majority_vote@2", "best_of_n@2"])
async def test_a_failure_after_a_published_answer_returns_that_answer_flagged(written: str) -> None:
    engine = ScriptedEngine([says("\\boxed{7}"), *[Choice(pieces=[Piece()] * 3, fails=True)] * 2], max_n=1)
    answer = await Played(written, engine).run()
    assert (texts(answer.winners), answer.cut_short) == (["\\boxed{7}"], "engine_error")
    assert answer.note == "scripted failure"


@pytest.mark.parametrize("written", ["single", "majority_vote@2", "best_of_n@2", "beam_search@2x1"])
@pytest.mark.parametrize("max_n", [1, 64])
async def test_a_failure_before_any_token_is_the_requests_error(written: str, max_n: int) -> None:
    with pytest.raises(EngineError, match="scripted failure"):
        await Played(written, ScriptedEngine([Choice(pieces=[], fails=True)] * 4, max_n=max_n)).run()


async def test_a_failure_in_the_middle_of_the_only_answer_returns_what_there_is_flagged() -> None:
    engine = ScriptedEngine([Choice(pieces=[Piece(text="The answer")], fails=True)])
    answer = await Played("single", engine).run()
    assert (texts(answer.winners), answer.cut_short) == (["The answer"], "engine_error")
    assert not answer.winners[0].finished


async def test_a_stream_that_ends_in_the_middle_of_an_answer_is_a_failure() -> None:
    """Not a deadline and not a budget, which is what it would look like."""
    broken = Choice(pieces=[Piece(text="The answer")], finish_reason=None)
    answer = await Played("single", ScriptedEngine([broken])).run()
    assert (texts(answer.winners), answer.cut_short) == (["The answer"], "engine_error")
    with pytest.raises(EngineError, match="in the middle"):
        await Played("single", ScriptedEngine([Choice(pieces=[], finish_reason=None)])).run()


async def test_a_timeout_inside_a_strategy_is_not_the_deadline() -> None:
    async def broken(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
        publish(Answer(winners=(Candidate(index=0, text="7", tokens=1, finish_reason="stop"),)))
        raise TimeoutError("a fault")

    played = Played("single", ScriptedEngine([]))
    with pytest.raises(TimeoutError, match="a fault"):
        await run(broken, played.query, played.spec, played.tools, played.sampler, deadline=FAR)


async def test_fewer_candidates_than_asked_for_are_said_to_be_cut_by_tokens() -> None:
    """Although each of them finished."""
    answer = await Played("best_of_n@8", ScriptedEngine([says("7")] * 8), ask(max_tokens=30), capacity=40).run()
    assert (answer.candidates, answer.cut_short) == (2, "tokens")


async def test_fewer_answers_than_asked_for_are_said_to_be_cut_by_tokens() -> None:
    answer = await Played("single", ScriptedEngine([says("7")] * 4), ask(max_tokens=30, answers=4), capacity=20).run()
    assert (len(answer.winners), answer.cut_short) == (1, "tokens")


async def test_agreement_is_with_the_beam_that_is_returned() -> None:
    """The best beam says 7 and three others say 8: one in four agrees."""
    branches = {"": [rated("\\boxed{7}", -0.1), *[rated("\\boxed{8}", -0.5)] * 3]}
    answer = await Played("beam_search@2x2", tree(branches)).run()
    assert (answer.winners[0].text, answer.agreement) == ("\\boxed{7}", 0.25)


def test_every_candidate_is_read_once_however_often_the_votes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    extract = answers.extract
    monkeypatch.setattr(answers, "extract", lambda text, form=None: read.append(1) or extract(text, form=form))
    ballot = Ballot(form=None)
    for i in range(20):
        ballot.cast(Candidate(index=i, text=str(i % 3), tokens=1, finish_reason="stop"))
        ballot.vote()
        select(ballot, rule="weighted")
    assert len(read) == 20
