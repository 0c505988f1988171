"""Pools from a store of outcomes: who is right by feedback, what can't be learned from, what is said about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from router.labels import label_table
from router.logs.drawn import Imported, Reading
from router.logs.recorded import Recorded, pools_of
from router.pools import Call, Pool, read_pools, write_pools
from server.cli import main
from server.store.database import connect
from server.store.rows import row_of
from server.store.verdicts import Verdict, give
from server.store.writer import Timed
from strategies.types import Candidate
from tests.fakes import ask, menu_of
from tests.pools import POOLS
from tests.stores import PATIENCE, a_call, kept, said, settled, write

LONG = "The weevil is a beetle with a long snout that lives in grain and is found in most of the world's stores {}."


def recorded(
    *texts: str | Candidate,
    content: str = "How much is 3 + 4?",
    score: float | None = None,
    reference: str | None = None,
    id: str = "a",
    query: dict[str, Any] | None = None,
    recorded: float = 1e9,
    keeps_texts: bool = True,
    **fields: Any,
) -> Recorded:
    asked = ask(content, **{"max_tokens": 32, **(query or {})})
    row = row_of(kept(id, *texts, query=asked, keeps_texts=keeps_texts, recorded=recorded, **fields), b"salt")
    return Recorded(
        id=row.id,
        recorded=row.recorded,
        model=row.model,
        strategy=row.strategy,
        temperature=row.temperature,
        tokens=row.tokens,
        seconds=row.seconds,
        candidates=row.candidates,
        asked=row.asked,
        texts=row.texts,
        score=score,
        reference=reference,
    )


def imported(*outcomes: Recorded, **options: Any) -> Imported:
    return pools_of(outcomes, Reading(max_tokens=64, model=options.pop("model", None)), **options)


def verdicts(pool: Pool) -> list[float]:
    return [sample.correct for sample in pool.samples]


def test_a_right_answer_makes_equal_ones_right_and_different_ones_wrong() -> None:
    (pool,) = imported(recorded("7", "8", "The answer is 7.", said("", index=3), score=1.0)).pools
    assert (pool.label, pool.question.verifier) == ("feedback", "feedback")
    assert verdicts(pool) == [1.0, 0.0, 1.0, 0.0]
    assert [sample.answer for sample in pool.samples] == ["7", "8", "7", None]
    assert (pool.model, pool.temperature, pool.recorded) == ("m", 0.8, "2001-09-09")
    assert (pool.question.family, pool.question.max_tokens) == ("chats", 32)
    assert pool.samples[0].mean_logprob == -0.5
    assert pool.samples[0].certainty == 2.0


def test_a_wrong_answer_says_nothing_of_different_ones() -> None:
    """So they can only be judged when there are none: guessing would teach what nobody knows."""
    with pytest.raises(ValueError, match="1 outcomes left out: drawn with other answers than those judged"):
        imported(recorded("7", "8", "7", score=0.0))
    (pool,) = imported(recorded("7", "The answer is 7.", said("", index=2), score=0.0)).pools
    assert (pool.label, verdicts(pool)) == ("feedback", [0.0, 0.0, 0.0])


def test_feedback_on_several_answers_to_one_question_adds_up() -> None:
    """A wrong 8 and a right 7, of two requests. An answer judged twice has the mean."""
    wrong, right = recorded("8", "7", score=0.0, id="a"), recorded("7", "9", score=1.0, id="b")
    (pool,) = imported(wrong, right).pools
    assert verdicts(pool) == [0.0, 1.0, 1.0, 0.0]
    (pool,) = imported(right, recorded("7", score=0.5, id="c")).pools
    assert verdicts(pool) == [0.75, 0.0, 0.75]


def test_a_right_text_does_not_make_other_texts_wrong() -> None:
    """Two different explanations can both be right."""
    one, other = LONG.format("of wheat"), LONG.format("and in flour")
    with pytest.raises(ValueError, match="nobody knows whether they are right"):
        imported(recorded(one, other, content="What is a weevil?", score=1.0))
    (pool,) = imported(recorded(one, content="What is a weevil?", score=1.0)).pools
    assert verdicts(pool) == [1.0]


def test_feedback_on_what_was_cut_judges_nothing() -> None:
    with pytest.raises(ValueError, match="feedback on an answer that was cut or blank"):
        imported(recorded(said("7 and", finish_reason="length"), "7", score=1.0))


def test_a_reference_judges_every_sample() -> None:
    """Before all that is said of single answers; the last one counts, and one that holds no answer does not."""
    first = recorded("8", "7", "7", score=1.0, reference="8", id="a")
    last = recorded("7", reference="The answer is 7.", id="b")
    (pool,) = imported(first, last, recorded("8", reference=" ", id="c")).pools
    assert (pool.label, pool.question.reference) == ("reference", "The answer is 7.")
    assert verdicts(pool) == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_without_feedback_the_large_vote_is_the_label() -> None:
    """Over all requests of a question, however each was stopped."""
    outcomes = [
        recorded("7", "8", id="a"),
        recorded("8", id="b", strategy="single", query={"sampling": {"temperature": 0.8}}),
    ]
    (pool,) = imported(*outcomes).pools
    assert (pool.label, verdicts(pool)) == ("agreement", [0.0, 1.0, 1.0])


def test_what_was_stopped_is_no_sample_and_is_said_to_be_missing() -> None:
    found = imported(recorded("7", "7", said("7 is", index=2, finish_reason=None)), recorded("9", content="4 + 5?"))
    assert [len(pool.samples) for pool in found.pools] == [2, 1]
    assert any(note.startswith("1 of 4 candidates were stopped before their end") for note in found.notes)
    assert any(note.startswith("questions have 1 to 2 samples, fewer where answers agreed") for note in found.notes)
    assert found.notes[-1] == "right by what most samples say: 2"


def test_what_can_not_be_learned_from_is_counted_with_its_reason() -> None:
    good = recorded("7", "7")
    texts = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    found = imported(
        good,
        recorded("7", keeps_texts=False),
        recorded("7", keeps_texts=False),
        recorded("7", query={"sampling": {"temperature": 0}}),
        recorded("7", query={"answer_pattern": "(7)"}),
        recorded("7", query={"messages": texts}),
        recorded(said("7", finish_reason=None)),
        recorded("7", content="4 + 3?", strategy="beam_search@2x2"),
        recorded("7", query={"sampling": {"temperature": 0.3}}),
        replace(good, candidates="[]"),
    )
    assert len(found.pools) == 1
    left_out = [note for note in found.notes if "left out: " in note and "outcomes" in note]
    assert [note.partition(" outcomes left out: ")[::2] for note in left_out] == [
        ("2", "without texts, as store.keep was outcomes, or they were too large"),
        ("1", "drawn at temperature 0, which says nothing of other draws"),
        ("1", "read by an answer_pattern of the client's"),
        ("1", "not a question (messages: the last one is the assistant's; leave it out, or make it the reference)"),
        ("1", "no candidate came to its end"),
        ("1", "not of a shape that is known"),
        ("1", "drawn at another temperature than most of their question's"),
        ("1", "beam search alone, whose candidates are no samples"),
    ]


def test_a_beam_search_is_a_run_of_its_own() -> None:
    """Judged as the samples are; not at all where that is not known."""
    search = recorded("8", strategy="beam_search@2x2", id="s")
    (pool,) = imported(recorded("7", "8", score=1.0), search).pools
    assert [(run.spec, run.correct, run.tokens, run.seconds) for run in pool.runs] == [("beam_search@2x2", 0.0, 3, 0.5)]
    (pool,) = imported(recorded("7", score=0.0), search).pools
    assert pool.runs == ()
    (pool,) = imported(recorded("8", "8", "7"), search).pools
    assert [run.correct for run in pool.runs] == [1.0]


def test_several_models_need_one_to_be_named() -> None:
    outcomes = [recorded("7"), recorded("7", query={"model": "n"})]
    with pytest.raises(ValueError, match="of several models, of which --model has to name one: m, n"):
        imported(*outcomes)
    assert {pool.model for pool in imported(*outcomes, model="n").pools} == {"n"}


def test_calls_teach_seconds() -> None:
    call = Call(prompt_tokens=1, running=0, added=1, first_token_seconds=0.1, seconds=1.0, longest=5)
    assert imported(recorded("7"), calls=[call]).pools[0].calls == (call,)


def test_pools_of_outcomes_give_labels() -> None:
    (row,) = label_table(
        imported(recorded("7", "8", "7", score=1.0)).pools, menu_of("single", "majority_vote@3", "best_of_n@3")
    )
    accuracies = {str(spec): label.accuracy for spec, label in row.items()}
    assert accuracies["single"] == pytest.approx(2 / 3)
    assert accuracies["majority_vote@3"] == 1.0
    assert set(accuracies) == {"single", "majority_vote@3", "best_of_n@3"}


# --- the commands


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Of twelve questions, one with feedback."""
    file = tmp_path / "outcomes.db"
    url = f"sqlite:///{file}"
    entries = [
        kept(f"{i:02}", str(i), str(i), "0", query=ask(f"{i} + 0?", max_tokens=32), keeps_texts=True) for i in range(12)
    ]
    writer = write(url, [*entries, kept("bare")])
    writer.put_call(Timed(id="x", recorded=1.0, stats=a_call()))
    settled(writer)
    writer.stop(PATIENCE)
    database = connect(url)
    give(database, Verdict(id="03", given=1.0, score=1.0))
    database.close()
    return file


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("how", ["file", "url", "configuration"])
def test_import_reads_a_store(how: str, store: Path, tmp_path: Path) -> None:
    out, config = tmp_path / "mine.parquet", tmp_path / "c.yaml"
    config.write_text(f"store: {{url: 'sqlite:///{store}'}}" if how == "configuration" else "")
    named = {"file": [str(store)], "url": ["--store", f"sqlite:///{store}"], "configuration": []}[how]
    result = run("import", *named, "-c", str(config), "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "12 questions, 36 samples" in result.output
    assert "1 outcomes left out: without texts" in result.output
    assert "right by what most samples say: 11, feedback: 1" in result.output
    pools = read_pools(out)
    assert [len(pool.calls) for pool in pools] == [1, *[0] * 11]
    assert {pool.label for pool in pools} == {"agreement", "feedback"}


def test_what_is_not_there_to_be_imported_is_one_sentence(store: Path, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "x.parquet"))
    for arguments, complaint in (
        ((), "nothing to import: name logs, or a store of outcomes by --store"),
        (("--store", "mysql://hush@x/y"), "--store should be sqlite:///PATH"),
        (("--store", f"sqlite:///{tmp_path}/none.db"), "none.db: no such file"),
        ((str(store), str(store)), "import it alone, and give both pools to train"),
    ):
        result = run("import", *arguments, *out)
        assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
        assert complaint in result.output
        assert "hush" not in result.output


def test_outcomes_shows_predictions_beside_what_they_came_to(store: Path) -> None:
    result = run("outcomes", str(store))
    assert result.exit_code == 0, result.output
    heading, row = result.output.splitlines()
    assert heading.split() == [
        "strategy",
        "answered",
        "expected",
        "confidence",
        "judged",
        "score",
        *["tokens", "of"],
        *["seconds", "of"],
    ]
    assert row.split() == ["majority_vote@3", "13", "0.6", "0.75", "1", "1", "30", "8.54", "1", "0.5"]


def test_train_takes_them_beside_a_calibrated_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up questions as a gateway would have kept them: votes of unequal size, a single one, one judged."""
    monkeypatch.setattr("router.learning._REPLAYED", 0)
    url = f"sqlite:///{tmp_path}/outcomes.db"
    entries = [
        kept(
            f"{i:02}",
            *(sample.text for sample in pool.samples[: 1 + i % 5]),
            query=ask("", messages=pool.question.messages, max_tokens=64, sampling={"temperature": 0.8}),
            strategy="majority_vote@4" if i % 5 else "single",
            keeps_texts=True,
        )
        for i, pool in enumerate(POOLS)
    ]
    write(url, entries).stop(PATIENCE)
    database = connect(url)
    for i in range(0, 60, 4):
        give(database, Verdict(id=f"{i:02}", given=1.0, score=1.0))
    database.close()
    calibrated, out, config = tmp_path / "calibrated.jsonl.gz", tmp_path / "outcomes.parquet", tmp_path / "c.yaml"
    write_pools(calibrated, POOLS)
    config.write_text("menu: [single, majority_vote@4, best_of_n@4, beam_search@2x2]\n")
    result = run("import", "--store", url, "--out", str(out))
    assert result.exit_code == 0, result.output
    models = tmp_path / "models"
    pools = ("--pools", str(calibrated), "--pools", str(out))
    result = run("train", "-c", str(config), *pools, "--out", str(models))
    assert result.exit_code == 0, result.output
    card = (models / "CARD.md").read_text()
    assert "what was said of the answers that were returned (15 questions)" in card
    assert (models / "accuracy.txt").is_file()
