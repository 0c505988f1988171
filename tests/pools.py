"""Made-up pools: what a recording would hold, so that learning and playing through can be tested.

They tell whether something works, not how good it is on anything real.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from router.pools import Call, Pool, Run, Sample
from router.questions import Question
from strategies.types import LogprobSummary
from tests.fakes import menu_of

MENU = menu_of("single", "majority_vote@4", "best_of_n@4", "beam_search@2x2")
STEP_TOKENS = 16
SIZE = 8  # samples a pool of `pool`
RIGHT = "7"


def question(number: int, low: int, high: int, rng: Random) -> Question:
    a, b = rng.randint(low, high), rng.randint(low, high)
    return Question(
        id=f"sum-{number}",
        family="small" if high < 1000 else "large",
        messages=({"role": "user", "content": f"{a} + {b} = ?"},),
        reference=str(a + b),
        verifier="number",
        max_tokens=64,
    )


def pool(number: int) -> Pool:
    """Small numbers: nine of ten samples are right and short. Large ones: one of ten, and long."""
    rng = Random(number)
    easy = number % 2 == 0
    asked = question(number, 1, 9, rng) if easy else question(number, 10_000, 99_999, rng)
    samples: list[Sample] = []
    for _ in range(SIZE):
        right = rng.random() < (0.9 if easy else 0.1)
        answer = asked.reference if right else str(rng.randint(-40, -1))
        samples.append(
            Sample(
                text=answer,
                answer=answer,
                correct=float(right),
                tokens=rng.randint(8, 12) if easy else rng.randint(30, 50),
                mean_logprob=-rng.random(),
                certainty=rng.random(),
            )
        )
    calls = tuple(
        Call(
            prompt_tokens=10,
            running=running,
            added=added,
            first_token_seconds=0.1 * (1 + running / 8),
            seconds=0.1 * (1 + running / 8) + 0.01 * added * (1 + running / 8) * 19,
            longest=20,
        )
        for added in (1, 4, 8)
        for running in (0, 8)
    )
    run = Run(spec="beam_search@2x2", correct=float(easy), tokens=40, seconds=0.5)
    return Pool(
        question=asked,
        model="m",
        temperature=0.8,
        recorded="2026-01-01",
        samples=tuple(samples),
        runs=(run,),
        calls=calls,
    )


POOLS = [pool(number) for number in range(60)]


def pool_of(samples: Sequence[Sample], *, runs: Sequence[Run] = (), name: str = "q") -> Pool:
    """One question with these samples."""
    asked = Question(
        id=name,
        family="sums",
        messages=({"role": "user", "content": "3 + 4?"},),
        reference=RIGHT,
        verifier="number",
        max_tokens=100,
    )
    return Pool(
        question=asked, model="m", temperature=0.8, recorded="2026-01-01", samples=tuple(samples), runs=tuple(runs)
    )


def sample(answer: str | None, *, tokens: int = 10, mean: float = -1.0, certainty: float = 1.0) -> Sample:
    return Sample(
        text="" if answer is None else f"\\boxed{{{answer}}}",
        answer=answer,
        correct=float(answer == RIGHT),
        tokens=tokens,
        mean_logprob=mean,
        certainty=certainty,
    )


def logprobs_of(each: Sample) -> LogprobSummary:
    """As the engine sent them."""
    assert each.mean_logprob is not None
    assert each.certainty is not None
    return LogprobSummary(
        tokens=each.tokens,
        total=each.mean_logprob * each.tokens,
        certainty=each.certainty * each.tokens,
        certain_tokens=each.tokens,
    )


def random_pool(seed: int, size: int, *, answers: Sequence[str | None] = (RIGHT, RIGHT, "8", "9", None)) -> Pool:
    """Answers, lengths and scores at random; lengths and scores never tie."""
    random = Random(seed)
    lengths = random.sample(range(5, 60), size)
    samples = [
        sample(random.choice(answers), tokens=tokens, mean=-random.random() * 3, certainty=random.random() * 5)
        for tokens in lengths
    ]
    return pool_of(samples, name=f"q{seed}")
