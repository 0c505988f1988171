"""How the tour looks: colours and spinners on a terminal, plain lines of fixed width anywhere else."""

from __future__ import annotations

import contextlib
import io
import math
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from router.features import FEATURE_NOTES
from router.questions import verify
from server.config import Profile
from server.demo_questions import Stop
from strategies.answers import extract

_WIDTH = 110
_INDENT = 11
_SHOWN = 8  # different candidates, and different answers, that are listed
_GRACE = 0.25  # seconds past the deadline that the loopback and the two event loops' turns may take
_CUT_SHORT = {
    "consensus": "the vote was settled, so the rest was not drawn or cancelled",
    "verified": "the verifier called this one right, so the rest was not drawn or cancelled",
    "price": "more candidates would not have been worth their price",
    "hopeless": "given up: no answer was likely to be right",
    "deadline": "the deadline came: this is the best answer so far",
    "tokens": "the token budget was used up",
    "engine_error": "the engine failed: this is the best answer so far",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One question and what came back, as its client saw it."""

    stop: Stop
    status: int
    body: Mapping[str, Any]
    seconds: float

    @property
    def answered(self) -> bool:
        return self.status == 200

    @property
    def details(self) -> Mapping[str, Any]:
        """The response's `apportion` object."""
        return self.body["apportion"]

    @property
    def text(self) -> str:
        return str(self.body["choices"][0]["message"]["content"] or "")

    @property
    def tokens(self) -> int:
        return int(self.body["usage"]["completion_tokens"])

    @property
    def right(self) -> bool:
        return self.answered and verify(self.stop.question, self.text) == 1.0

    @property
    def error(self) -> str:
        return str(self.body["error"]["message"])

    def problems(self) -> list[str]:
        """Promises that were not kept. A deadline that passed with nothing to return is an answer, and in time."""
        found: list[str] = []
        if not self.answered and self.body["error"]["code"] != "deadline_exceeded":
            found.append(f"HTTP {self.status}: {self.error}")
        if self.answered and self.tokens > self.stop.max_total_tokens:
            found.append(f"{self.tokens} tokens were spent of {self.stop.max_total_tokens}")
        if self.seconds > self.stop.seconds + _GRACE:
            found.append(f"the answer took {self.seconds:.2f} s of {self.stop.seconds:g} s")
        return [f"{self.stop.name}: {problem}" for problem in found]


def _console() -> Console:
    """Whoever reads a log wants no control codes, whatever FORCE_COLOR says to the programs before this one."""
    stream = cast("object", sys.stdout)
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # the model may say what the terminal's encoding lacks
    if not sys.stdout.isatty():
        return Console(width=_WIDTH, force_terminal=False, color_system=None, highlight=False)
    console = Console(highlight=False)
    console.width = min(console.width, _WIDTH)
    return console


def _one_line(text: str, limit: int = 60) -> str:
    """A model's text, fit for a table: no line breaks, no control characters, not too long."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."


def _noted(name: str, value: float) -> str:
    """A feature as a person reads it: without the logarithm that suits the model."""
    note = FEATURE_NOTES[name]
    plain = note.removesuffix(", log1p")
    return f"{plain}: {value if plain == note else math.expm1(value):.3g}"


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        narrow = name in right or name == "strategy"
        table.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=narrow)
    return table


def _decider(decided_by: str, version: str | None) -> str:
    return {"prior": "the prior, because there is no trained model", "client": "the client"}.get(
        decided_by, f"the trained model {version}"
    )


@dataclass(frozen=True, slots=True)
class View:
    """Prints the tour to standard output."""

    console: Console = field(default_factory=_console)

    def line(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style))

    def _labelled(self, label: str, text: str, style: str = "") -> None:
        """A paragraph with a hanging label. Wrapped here: rich would fill its lines up with blanks."""
        lines = textwrap.wrap(text, max(20, self.console.width - _INDENT)) or [""]
        body = ("\n" + " " * _INDENT).join(lines)
        self.console.print(Text.assemble((label.ljust(_INDENT), "bold"), (body, style)))

    @contextlib.contextmanager
    def busy(self, text: str) -> Generator[Callable[[str], None]]:
        """While something takes its time. Yields a function that says what is going on now."""
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            with self.console.status(text) as status:
                yield lambda now: status.update(now)
        else:
            self.line(f"... {text}")
            yield lambda now: self.line(f"... {now}")

    def ready(self, url: str, ready: Mapping[str, Any], seconds: float) -> None:
        engine, decider = ready["engine"], _decider(ready["decided_by"], ready["model_version"])
        self.line(f"ready at {url} after {seconds:.1f} s: {engine['name']}, up to {engine['max_n']} choices a call")
        self.line(f"who decides: {decider}")

    def asked(self, number: int, of: int, stop: Stop, profile: Profile) -> None:
        """The question and its budget, before it is sent."""
        self.console.print()
        self.console.rule(Text(f"{number} of {of}: {stop.name} ({stop.point})", "bold"), align="left", style="dim")
        self._labelled("question", f"{stop.ask}  (after {stop.examples} worked examples)")
        self._labelled("budget", f"{stop.max_total_tokens} tokens over all candidates, {stop.seconds:g} s")
        self._labelled(
            "prices", f"profile {stop.profile}: {profile.token_price:g} for 1,000 tokens, {profile.latency_price:g} "
            "for a second, in shares of a right answer",
        )  # fmt: skip

    def answered(self, visit: Visit) -> None:
        """The decision, the candidates and the answer."""
        if not visit.answered:
            self._labelled("no answer", f"HTTP {visit.status}: {visit.error}", "red")
            return
        details = visit.details
        noted = [_noted(name, value) for name, value in details["features"].items()]
        self._labelled("features", "; ".join(noted) or "nothing that stands out")
        self._predictions(details)
        self._labelled("chosen", details["reason"], "cyan")
        self._labelled("by", _decider(details["decided_by"], details["model_version"]))
        self._candidates(visit)
        if details["strategy"] != "single":
            self._votes(details["votes"])
        if details["confidence"] is not None:
            self._labelled("confidence", f"{details['confidence']:.0%}, calibrated on questions of the same kinds")
        if details["cut_short"]:
            self._labelled("ended", _CUT_SHORT[details["cut_short"]])
        verdict = "right" if visit.right else f"wrong, it is {visit.stop.question.reference}"
        self._labelled("answer", f"{_one_line(visit.text, 80)}  -> {verdict}", "green" if visit.right else "red")
        predicted = details["predicted"]
        self._labelled(
            "spent",
            f"{visit.tokens} tokens (predicted {predicted['tokens']:.0f}, at most {predicted['tokens_upper']:.0f}; "
            f"budget {visit.stop.max_total_tokens}), {visit.seconds:.2f} s (predicted {predicted['seconds']:.2f}, at "
            f"most {predicted['seconds_upper']:.2f}; budget {visit.stop.seconds:g})",
        )

    def _predictions(self, details: Mapping[str, Any]) -> None:
        """The table the decision was made on, best first; what does not fit comes last."""
        numbers = ("right", "tokens/upper", "seconds/upper", "utility")
        table = _table("", "strategy", *numbers, "fits", right=numbers)
        rows: Sequence[Mapping[str, Any]] = details["predictions"]
        for row in sorted(rows, key=lambda row: (row["feasible"], row["utility"]), reverse=True):
            chosen = row["strategy"] == details["strategy"]
            table.add_row(
                ">" if chosen else "",
                row["strategy"],
                f"{row['accuracy']:.0%}",
                f"{row['tokens']:.0f}/{row['tokens_upper']:.0f}",
                f"{row['seconds']:.2f}/{row['seconds_upper']:.2f}",
                f"{row['utility']:.3f}",
                Text("yes" if row["feasible"] else row["reason"]),
                style="bold cyan" if chosen else ("" if row["feasible"] else "dim"),
            )
        self.console.print(table)

    def _candidates(self, visit: Visit) -> None:
        """What was drawn, equal texts in one row, the returned one first. Beam search draws steps, not answers."""
        drawn: Sequence[Mapping[str, Any]] = visit.details["candidates"]["list"]
        steps = visit.details["strategy"].startswith("beam_search")
        columns = ("step",) if steps else ("candidate", "answer")
        table = _table("", "drawn", *columns, "logprob", "tokens", "ended", right=("drawn", "logprob", "tokens"))
        same = Counter((c["text"], c["finish_reason"], c["tokens"], c["mean_logprob"]) for c in drawn)
        rows = sorted(same.items(), key=lambda row: row[0][0] != visit.text)
        for (text, reason, tokens, logprob), count in rows[:_SHOWN]:
            found = extract(text) if reason not in (None, "length") else None
            table.add_row(
                ">" if text == visit.text else "",
                f"{count} x",
                Text(_one_line(text)),
                *(() if steps else (Text(_one_line(found.value, 20) if found else "-"),)),
                "-" if logprob is None else f"{logprob:.2f}",
                str(tokens),
                {None: "cancelled", "length": "to be continued" if steps else "cut"}.get(reason, "finished"),
            )
        self.console.print(table)
        if len(rows) > _SHOWN:
            self.line(f"  and {sum(count for _, count in rows[_SHOWN:])} more")

    def _votes(self, votes: Mapping[str, int]) -> None:
        shown = [f"{_one_line(answer, 30)} ({count})" for answer, count in list(votes.items())[:_SHOWN]]
        if len(votes) > _SHOWN:
            shown.append(f"and {len(votes) - _SHOWN} more answers")
        self._labelled("votes", ", ".join(shown) or "no candidate could vote")

    def summary(self, visits: Sequence[Visit], problems: Sequence[str]) -> None:
        """All questions in one table, and whether every promise was kept."""
        self.console.print()
        self.console.rule(Text("summary", "bold"), align="left", style="dim")
        numbers = ("tokens", "predicted", "budget", "seconds", "predicted ", "budget ")
        table = _table("question", "strategy", *numbers, "answer", "kept", right=numbers)
        for visit in visits:
            tokens, seconds, strategy = "-", "-", "-"
            if visit.answered:
                predicted, strategy = visit.details["predicted"], visit.details["strategy"]
                tokens, seconds = f"{predicted['tokens']:.0f}", f"{predicted['seconds']:.2f}"
            table.add_row(
                visit.stop.name,
                strategy,
                str(visit.tokens) if visit.answered else "-",
                tokens,
                str(visit.stop.max_total_tokens),
                f"{visit.seconds:.2f}",
                seconds,
                f"{visit.stop.seconds:g}",
                Text("right", "green") if visit.right else Text("wrong" if visit.answered else "none", "red"),
                Text("no", "bold red") if visit.problems() else Text("yes", "green"),
            )
        self.console.print(table)
        self.line("every budget was kept" if not problems else "broken:", "green" if not problems else "bold red")
        for problem in problems:
            self.line(f"  {problem}", "red")

    def how_to_go_on(self, url: str, model: str, *, stopping: bool) -> None:
        """Lines to copy: never wrapped, never coloured."""
        self.console.print()
        self.console.rule(Text("ask it yourself", "bold"), align="left", style="dim")
        self.console.out(_CURL.format(url=url), highlight=False)
        self.console.out(_PYTHON.format(url=url, model=model), highlight=False)
        self.line(f"metrics: {url}/metrics   state: {url}/ready")
        self.line("stopping" if stopping else "serving until Ctrl-C", "bold")


_CURL = """\
curl {url}/v1/chat/completions -H 'content-type: application/json' \\
  -d '{{"messages": [{{"role": "user", "content": "8 + 5 = ?"}}], "apportion": {{"strategy": "majority_vote@8"}}}}'
"""
_PYTHON = """\
from openai import OpenAI  # pip install openai

client = OpenAI(base_url="{url}/v1", api_key="unused")
reply = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "8 + 5 = ?"}}],
    extra_body={{"apportion": {{"max_total_tokens": 400, "deadline_ms": 5000}}}},  # optional
)
print(reply.choices[0].message.content)
print(reply.apportion["strategy"], reply.apportion["reason"])
"""
