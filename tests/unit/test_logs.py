"""Pools from logs that are there already. The fixtures are small files in each program's format, written by hand."""

from __future__ import annotations

import importlib
import zipfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from router.labels import label_table
from router.logs import Imported, Reading, read_logs
from router.pools import Pool, read_pools
from server.cli import main
from tests.conftest import ROOT
from tests.fakes import menu_of

LOGS = ROOT / "tests" / "fixtures" / "logs"
GSM8K = "samples_gsm8k_2026-03-01T10-20-30.123456.jsonl"
ZSTANDARD = 93  # zip's number for it
REPEATS = "samples_gsm8k_repeats_2026-03-02T10-20-30.123456.jsonl"


def imported(*names: str, folder: Path = LOGS, **options: Any) -> Imported:
    return read_logs([folder / name for name in names], Reading(**{"max_tokens": 256, **options}))


def verdicts(pool: Pool) -> list[float]:
    return [sample.correct for sample in pool.samples]


# --- lm-evaluation-harness


def test_harness_one_sample_a_document_is_scored_by_the_log() -> None:
    """Rows of one document differ in their filter only; whichever finds the answer right, it is."""
    found = imported(GSM8K, model="tiny")
    first, second = found.pools
    assert (verdicts(first), verdicts(second)) == ([1.0], [0.0])
    assert (first.label, first.question.verifier) == ("verifier", "log")
    assert (first.model, first.temperature, first.recorded) == ("tiny", 0.0, "2026-03-01")
    assert (first.question.family, first.question.max_tokens) == ("gsm8k", 64)
    assert first.question.messages == ({"role": "user", "content": "Question: Two and two?\nAnswer:"},)
    assert any("2 of 2 samples come without a count of tokens" in note for note in found.notes)
    assert any("2 of 2 questions have one sample only" in note for note in found.notes)


def test_harness_repeats_are_compared_with_the_target() -> None:
    """A score over several samples says nothing of one of them; where it is all there is, they are left out."""
    found = imported(REPEATS, model="tiny")
    (pool,) = found.pools
    assert pool.label == "reference"
    assert verdicts(pool) == [1.0, 0.0, 1.0, 0.0]
    assert [sample.answer for sample in pool.samples] == ["4", "5", "4", None]
    assert [message["role"] for message in pool.question.messages] == ["system", "user"]
    assert pool.temperature == 0.7
    assert "1 left out: several samples of code under one score" in found.notes


def test_harness_scores_by_likelihood_are_no_samples() -> None:
    with pytest.raises(ValueError, match="no samples in these logs; 1 left out: scored by likelihood"):
        imported("samples_arc_2026-03-01T10-20-30.123456.jsonl")


def test_harness_older_logs_list_no_metrics() -> None:
    """Then the first field that is a share of rightness is the score; a quality of 37 is none."""
    (pool,) = imported("older_samples.jsonl").pools
    assert (verdicts(pool), pool.question.verifier, pool.temperature, pool.model) == ([1.0], "log", 0.5, "logs")


# --- inspect_ai


def archive(folder: Path, *, compression: int = zipfile.ZIP_DEFLATED, whole: bool = True) -> str:
    log = orjson.loads((LOGS / "inspect.json").read_bytes())
    with zipfile.ZipFile(folder / "log.eval", "w", compression) as file:
        for sample in log.pop("samples"):
            file.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", orjson.dumps(sample))
        if whole:
            file.writestr("header.json", orjson.dumps(log))
    return "log.eval"


def check_inspect(found: Imported) -> None:
    (pool,) = found.pools
    assert (pool.question.id, pool.question.family, pool.question.max_tokens) == ("sums-1", "sums", 128)
    assert (pool.model, pool.temperature, pool.recorded) == ("vllm/tiny", 0.6, "2026-04-05")
    assert pool.question.messages[-1] == {"role": "user", "content": "2 + 2? Answer with a number."}
    assert [sample.text for sample in pool.samples] == ["4", "5", "4 because"]
    assert verdicts(pool) == [1.0, 0.0, 0.0]  # the last was cut, and can't win a vote
    assert [sample.tokens for sample in pool.samples] == [3, 2, 128]
    assert (pool.samples[0].mean_logprob, pool.samples[0].certainty) == (-0.25, 1.0)
    assert pool.samples[1].mean_logprob is None
    assert "1 left out: the sample failed" in found.notes
    assert "1 left out: a conversation of several answers, or with tools" in found.notes


def test_inspect_epochs_are_samples_of_their_question() -> None:
    """What was asked is what the model got, not the dataset's input before solvers rewrote it."""
    check_inspect(imported("inspect.json"))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, ZSTANDARD], ids=["deflate", "zstandard"])
def test_inspect_archives_hold_the_same(compression: int, tmp_path: Path) -> None:
    """Older and newer versions compress differently."""
    importlib.import_module("zipfile_zstd")
    check_inspect(imported(archive(tmp_path, compression=compression), folder=tmp_path))


def test_another_score_can_be_named() -> None:
    """One that is no share of rightness can't: 7 of how many?"""
    assert verdicts(imported("inspect.json", score="match").pools[0]) == [1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="no score 'style' that says right or wrong"):
        imported("inspect.json", score="style")


# --- OpenAI batches


def test_batch_outputs_are_joined_with_their_input() -> None:
    """A request that was sent twice is one question with two samples; without references agreement is the label."""
    found = imported("batch_output.jsonl", questions=LOGS / "batch_input.jsonl")
    capital, total = found.pools
    assert [sample.answer for sample in capital.samples] == ["paris", None]
    assert [sample.tokens for sample in capital.samples] == [2, 3]
    assert capital.recorded == "2026-02-25"
    assert (total.label, verdicts(total), total.temperature) == ("agreement", [1.0, 1.0, 0.0], 0.4)
    assert total.model == "tiny-2026"
    assert "1 left out: the request failed" in found.notes
    assert "1 left out: the question is not in batch_input.jsonl" in found.notes
    assert any(note.startswith("3 of 5 samples come without a count") for note in found.notes)


def test_references_come_with_chats_under_the_same_ids(tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_bytes(
        orjson.dumps({"id": "one", "messages": [{"role": "user", "content": "2 + 2?"}], "reference": "5"})
    )
    (pool,) = imported("batch_output.jsonl", questions=chats).pools
    assert (pool.label, verdicts(pool)) == ("reference", [0.0, 0.0, 1.0])


def test_a_batch_output_alone_has_no_questions() -> None:
    with pytest.raises(ValueError, match="name its input, which has the questions, with --questions"):
        imported("batch_output.jsonl")


# --- all of them


def test_logs_of_several_models_need_one_to_be_named() -> None:
    names = (GSM8K, "inspect.json")
    with pytest.raises(ValueError, match="of several models, of which --model has to name one: logs, vllm/tiny"):
        imported(*names)
    found = imported(*names, model="vllm/tiny")
    assert {pool.model for pool in found.pools} == {"vllm/tiny"}


def test_logs_of_one_question_add_up() -> None:
    """An evaluation that was run again has more samples of the same questions."""
    (pool,) = imported("inspect.json", "inspect.json").pools
    assert len(pool.samples) == 6


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("x.jsonl", b'{"a": 1}\n', "neither samples of lm-evaluation-harness, nor"),
        ("x.json", b"", "neither samples of lm-evaluation-harness, nor"),
        ("x.json", b'{"eval": {}}', "a log of inspect_ai without samples"),
        ("x.json", b'{"eval": {}, "samples": [{"id": 1, "input": 2, "output": {"choices": [{}]}}]}', "sample 1, epoch"),
        ("x.eval", b"PK", "convert it with `inspect log convert --to json`"),
    ],
)
def test_what_is_no_log_is_named(name: str, content: bytes, complaint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as raised:
        imported(name, folder=tmp_path)
    assert name in str(raised.value)


def test_an_archive_without_its_header_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="can't be read"):
        imported(archive(tmp_path, whole=False), folder=tmp_path)


def test_imported_pools_give_labels_of_votes_but_not_of_logprobs() -> None:
    """What a log does not hold is unknown, and what follows from its samples is not."""
    menu = menu_of("single", "majority_vote@3", "best_of_n@3")
    (row,) = label_table(imported("inspect.json").pools, menu)
    assert [str(spec) for spec in row] == ["single", "majority_vote@3"]


def test_the_command_writes_what_train_reads(tmp_path: Path) -> None:
    out = tmp_path / "mine.parquet"
    arguments = ["import", str(LOGS / "inspect.json"), "--out", str(out)]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "1 questions, 3 samples" in result.output
    assert len(read_pools(out)) == 1
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 1
    assert "not overwritten" in again.output


def test_a_folder_that_can_not_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    arguments = ["import", str(LOGS / "inspect.json"), "--out", str(tmp_path / "file" / "mine.parquet")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert "mine.parquet" in result.output or str(tmp_path / "file") in result.output
