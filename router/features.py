"""What a request looks like to the predictors: counts and shares, no network, no model weights.

Most features describe the *question*, the last user message; the rest describe the conversation and what was asked of
the engine. Work is bounded: of a long text only the first and last `EDGE` characters are read, so counts are those of
what was read, while lengths are true lengths (words and lines are scaled up).

To add a feature: a row in `_TABLE`, a value in its group's function if the row cannot say it, `FEATURES_VERSION` up,
retrain.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from strategies.types import Query

FEATURES_VERSION = 1
EDGE = 8_000  # characters read at either end of a long text
IMAGE_TOKENS = 600  # roughly what a vision model spends on one picture
_MOST_NODES = 4_000  # JSON values looked at when sizing tools; what lies beyond is not counted

# "# group interest", then its features in vector order: name | note | what the question is searched for. Interest is
# how much a group tells a person; 0 keeps it out of `notable`. Searches: `signs` counts exact strings, `pattern` matches
# of an expression, `words` whole words, `prompt` the same in the system prompt too, `verbs` words that open a sentence
# (0 or 1), `asks` how the last question is put (the first row that fits, 0 or 1). No search: a group function below.
# Patterns begin with a literal or a character class, so that the matcher skips fast; none can backtrack far.
_TABLE = r"""
# length 0.4
log_chars | length in characters, log1p
log_words | length in words, log1p
log_lines | number of lines, log1p
# wording 0
mean_word_length | letters in the average word
distinct_word_share | share of the words that are distinct
single_letter_words | words of one letter: variables, or letters as things
upper_share | share of the ASCII letters in upper case
punctuation_share | share of the characters that are ASCII punctuation
digit_share | share of the characters that are digits
latin_share | share of the letters in Latin script
# scripts 2
non_ascii_share | share of the characters outside ASCII
cyrillic_share | share of the letters in Cyrillic script
cjk_share | share of the letters in Chinese, Japanese or Korean script
arabic_share | share of the letters in Arabic script
other_script_share | share of the letters in any other script
# numbers 1
numbers | numbers written in digits
number_magnitude | log10 of the largest number
number_digits | digits of all numbers together
number_max_digits | digits of the longest number
decimals | numbers with a decimal point
negatives | negative numbers
fractions | fractions a/b | pattern [0-9] ?/ ?[0-9]
# operators 0.9
op_plus | plus signs | signs +
op_minus | minus signs before a number or a bracket | pattern [-−] ?[0-9(]
op_star | asterisks | signs *
op_times | multiplication signs: ×, \times, \cdot | signs × \times \cdot
op_x | x as a multiplication sign | pattern [0-9] ?x(?= ?[0-9])
op_slash | slashes and division signs | signs / ÷
op_caret | powers: ^ or ** | signs ^ **
op_equals | equals signs | signs =
op_less | less-than signs | signs <
op_greater | greater-than signs | signs >
op_percent | percent signs | signs %
# maths 1.4
latex_commands | LaTeX commands | pattern \\[a-zA-Z]+
boxed | question or system prompt asks for \boxed
dollar_maths | formulas between dollar signs | pattern \$(?! )[^$\n]{0,200}[^$\n ]\$(?![0-9])
# code 1.2
code_fences | code fences | signs ```
backticks | backticks | signs `
code_keywords | programming words | words def return import class const elif lambda println void static struct async
    python javascript java sql html regex
indented_lines | lines indented like code | pattern \n(?:    |\t)
semicolons | semicolons | signs ;
braces | opening curly brackets | signs {
# lists 0.6
round_brackets | opening round brackets | signs (
square_brackets | opening square brackets: lists, indices | signs [
commas | commas: items of a list | signs , 、 ，
quotes | quotation marks | signs " “ ” „ « » 「 」
choices | lettered options: A), (B), C.
# form 1.1
form_how_many | asks how many | asks \bhow many\b
form_how_much | asks how much | asks \bhow much\b
form_what | asks what | asks \bwhat\b
form_which | asks which | asks \bwhich\b
form_why | asks why | asks \bwhy\b
form_who | asks who | asks \bwho(?:se|m)?\b
form_how | asks how | asks \bhow\b
form_yes_no | asks for yes or no | asks \A\W*(?:is|are|was|were|do|does|did|can|could|will|would|should|has|have)\b
form_when | asks when or where | asks \b(?:when|where)\b
ends_question | ends with a question mark
ends_equals | ends with an equals sign: a sum to finish
# commands 1.3
do_compute | tells to compute | verbs compute calculate evaluate add subtract multiply divide
do_find | tells to find | verbs find determine identify
do_solve | tells to solve | verbs solve
do_prove | tells to prove or show | verbs prove show verify
do_write | tells to write | verbs write create implement generate compose draft build
do_explain | tells to explain | verbs explain describe discuss
do_sort | tells to sort | verbs sort arrange order rank
do_reverse | tells to reverse | verbs reverse
do_count | tells to count | verbs count
do_list | tells to list or name | verbs list name enumerate give
do_translate | tells to translate | verbs translate
do_convert | tells to convert | verbs convert change transform
do_simplify | tells to simplify | verbs simplify factor expand reduce
do_compare | tells to compare | verbs compare contrast
do_summarise | tells to summarise or rewrite | verbs summarise summarize rewrite paraphrase shorten
do_classify | tells to classify or choose | verbs classify choose select pick decide label
# words 1
words_each | a rate: each, per, every | words each per every apiece daily
words_total | a sum: total, altogether | words total altogether sum combined together
words_left | a remainder: left, remain | words left remain remains remaining remainder rest leftover
words_more | more, extra, increase | words more extra additional increase increases increased gain gained added
words_less | less, fewer, lost, sold | words less fewer decrease decreased lost gave spent sold ate minus
words_times | times, twice, double | words times twice double triple thrice product multiplied
words_half | parts: half, third, percent | words half halves third thirds quarter quarters percent percentage fraction
words_money | money: dollars, cost | words dollar dollars cent cents cost costs price pay pays paid money profit discount
words_compare | larger, smaller, than | words larger smaller greater bigger taller shorter older younger faster slower than
words_extreme | largest, smallest, most | words largest smallest greatest maximum minimum least most highest lowest longest
words_time | time: day, hour | words day days week weeks month months year years hour hours minute minutes second seconds
words_calendar | dates: weekdays, months | words monday tuesday wednesday thursday friday saturday sunday date today
    tomorrow yesterday january february april june july august september october november december
words_letters | spelling: letter, word, vowel | words letter letters word words spell spelled vowel vowels consonant
    alphabet alphabetical alphabetically anagram palindrome characters string uppercase lowercase rhyme
words_order | first, last, next | words first last next previous before after backward backwards ascending descending
words_algebra | algebra: equation, integer | words equation equations polynomial integer integers prime function roots
    variable coefficient divisible modulo matrix vector derivative integral logarithm
words_geometry | geometry: triangle | words triangle circle square rectangle angle angles radius area perimeter volume
words_chance | chance and counting | words probability random ways dice coin coins permutations combinations
words_logic | logic: true, implies, liar | words true false implies if liar knight knave statement statements premise
words_knowledge | facts: capital, country | words capital country president city author wrote invented discovered war
words_opinion | sentiment and opinion | words sentiment positive negative review opinion feel best worst recommend prefer
words_negation | negations | words not no never none neither nor without cannot don't doesn't isn't aren't can't won't
# instructions 1.3
words_steps | asked to reason, or by the system prompt | prompt step steps think reason reasoning explain carefully
words_brief | asked to be brief, or by the system prompt | prompt only just brief briefly short concise single directly
words_format | a format named, or by the system prompt | prompt json table format markdown xml csv yaml template schema
# conversation 0.8
turns | messages in the conversation
ends_with_user | the last message is the user's
system_prompt | has a system prompt
log_system_chars | length of the system prompt in characters, log1p
assistant_turns | earlier answers in the conversation
log_assistant_words | words of the average earlier answer, log1p
log_last_assistant_words | words of the latest earlier answer, log1p
last_assistant_digits | the latest earlier answer has digits
last_assistant_answer | the latest earlier answer states a result: "answer is", \boxed, ####
tool_turns | results of tools in the conversation
# request 1.5
tools | tools offered
tool_forced | a tool must be called
json_output | the answer must be JSON
stop_given | stop strings given
images | pictures in the conversation
# size 0
log_max_tokens | the client's bound on one answer in tokens, log1p; 0 if none
max_tokens_absent | the client set no bound on tokens
temperature | the client's temperature; 0 if none
temperature_absent | the client set no temperature
prompt_tokens | estimated prompt tokens: the whole conversation, tools, pictures
log_prompt_tokens | the same, log1p
"""  # noqa: RUF001 - the signs themselves: a multiplication sign, a minus, full-width commas


class _Row(NamedTuple):
    name: str
    note: str
    interest: float
    kind: str  # of search, "" for none
    target: str


def _rows(table: str) -> list[_Row]:
    rows, interest = list[_Row](), 0.0
    for line in table.strip().replace("\n    ", " ").splitlines():
        if line.startswith("# "):
            interest = float(line.split()[2])
            continue
        name, note, *search = line.split(" | ")
        kind, _, target = "".join(search).partition(" ")
        rows.append(_Row(name, note, interest, kind, target))
    return rows


_ROWS = _rows(_TABLE)
FEATURE_NOTES: Mapping[str, str] = {row.name: row.note for row in _ROWS}
FEATURE_NAMES: tuple[str, ...] = tuple(FEATURE_NOTES)
_INTEREST = {row.name: row.interest for row in _ROWS}
_TARGETS = {kind: {row.name: row.target for row in _ROWS if row.kind == kind} for kind in {row.kind for row in _ROWS}}
_SIGNS = {name: target.split() for name, target in _TARGETS["signs"].items()}
_PATTERNS = {name: re.compile(target) for name, target in _TARGETS["pattern"].items()}
_FORMS = {name: re.compile(target) for name, target in _TARGETS["asks"].items()}
_LEXICON = {
    kind: {word: name for name, target in _TARGETS[kind].items() for word in target.split()}
    for kind in ("words", "prompt", "verbs")
}
_POLITE = frozenset({"please", "now", "then", "and", "kindly", "also"})
_WORD = re.compile(r"[^\W\d_]+(?:'[a-z]+)?")
_NUMBER = re.compile(r"[0-9](?:[0-9]|,(?=[0-9]{3}(?![0-9])))*(?:\.[0-9]+)?")
_SENTENCE_END = re.compile("[.!?:;\n\u3002\uff1f\uff01]+")
_CHOICE = re.compile(r"[A-Ja-j](?<!\w[A-Ja-j])[).:]")
_RESULT = re.compile(r"answer is|answer:|\\boxed|####", re.IGNORECASE)
_QUESTION_MARKS = ("?", "\uff1f")
_UPPER, _DIGITS, _BLANKS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"0123456789", b" \t\r\n\v\f"
_LETTERS = _UPPER + _UPPER.lower()
# The first word of a letter's Unicode name tells its script.
_SCRIPTS = {"LATIN": "latin", "FULLWIDTH": "latin", "CYRILLIC": "cyrillic", "ARABIC": "arabic"} | dict.fromkeys(
    ("CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH", "KATAKANA-HIRAGANA", "HANGUL", "IDEOGRAPHIC"), "cjk"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """One query's features. `version` says which code made them: a model never reads another version's numbers."""

    version: int
    values: Mapping[str, float]

    def vector(self) -> list[float]:
        """The values in the order of `FEATURE_NAMES`."""
        return [self.values[name] for name in FEATURE_NAMES]


class _Message:
    """One message, whatever the client sent: unknown shapes come out empty."""

    def __init__(self, raw: object) -> None:
        fields = _mapping(raw)
        role, content = fields.get("role"), fields.get("content")
        parts = [_mapping(part) for part in _items(content)]
        texts = [text for part in parts if isinstance(text := part.get("text"), str)]
        self.role = role if isinstance(role, str) else ""
        self.text = content if isinstance(content, str) else "\n".join(texts)
        self.images = sum(part.get("type") == "image_url" for part in parts)
        self.calls = fields.get("tool_calls")


class _View:
    """What the groups read, made once: the question, cut to its edges, and the messages around it."""

    def __init__(self, query: Query) -> None:
        self.query = query
        self.messages = [_Message(raw) for raw in _items(query.messages)]
        asked = [message.text for message in self.messages if message.role == "user"]
        question = asked[-1] if asked else self.messages[-1].text if self.messages else ""
        self.system = "\n".join(m.text for m in self.messages if m.role in ("system", "developer"))
        self.text = _edges(question)
        self.length = len(question)
        self.ascii = self.text.encode("ascii", "ignore")
        self.lower = self.text.lower().replace("\u2019", "'")
        self.words = Counter(_WORD.findall(self.lower))
        self.sentences = [part for part in _SENTENCE_END.split(self.lower) if part and not part.isspace()]


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _items(value: object) -> Sequence[object]:
    return cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()


def _number(value: object) -> float | None:
    """A finite number, as a client may have sent it; None for anything else, NaN included."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
    return float(value) if usable else None


def _edges(text: str) -> str:
    return text if len(text) <= 2 * EDGE else f"{text[:EDGE]}\n{text[-EDGE:]}"


def _among(text: bytes, characters: bytes) -> int:
    """How many characters of `text` are among `characters`: at the speed of C, which a loop is not."""
    return len(text) - len(text.translate(None, characters))


def _tally(words: Mapping[str, int], kind: str) -> dict[str, float]:
    """Sum the counts of the words that belong to each feature."""
    found, lexicon = dict.fromkeys(_TARGETS[kind], 0.0), _LEXICON[kind]
    for word in lexicon.keys() & words.keys():
        found[lexicon[word]] += words[word]
    return found


def _counts(view: _View) -> dict[str, float]:
    """Everything a row of the table says by itself."""
    system = Counter(_WORD.findall(_edges(view.system).lower()))
    opening = (_WORD.findall(sentence[:40]) for sentence in view.sentences)
    verbs = Counter(next((word for word in words if word not in _POLITE), "") for words in opening)
    return {
        **{name: sum(map(view.text.count, signs)) for name, signs in _SIGNS.items()},
        **{name: len(pattern.findall(view.text)) for name, pattern in _PATTERNS.items()},
        **_tally(view.words, "words"),
        **_tally(view.words + system, "prompt"),
        **{name: count > 0 for name, count in _tally(verbs, "verbs").items()},
    }


def _text(view: _View) -> dict[str, float]:
    count, size, text = view.words.total(), len(view.text) or 1, view.ascii
    letters, upper, digits, blanks = (_among(text, kind) for kind in (_LETTERS, _UPPER, _DIGITS, _BLANKS))
    scale = view.length / size  # how much longer the question is than what was read of it
    return {
        "log_chars": math.log1p(view.length),
        "log_words": math.log1p(count * scale),
        "log_lines": math.log1p((view.text.count("\n") + 1) * scale),
        "mean_word_length": sum(len(word) * times for word, times in view.words.items()) / (count or 1),
        "distinct_word_share": len(view.words) / (count or 1),
        "single_letter_words": sum(times for word, times in view.words.items() if len(word) == 1),
        "upper_share": upper / (letters or 1),
        "punctuation_share": (len(text) - letters - digits - blanks) / size,
        "digit_share": digits / size,
        "boxed": "\\boxed" in view.text or "\\boxed" in view.system,
    }


def _scripts(view: _View) -> dict[str, float]:
    found = Counter(latin=_among(view.ascii, _LETTERS))
    foreign = len(view.text) - len(view.ascii)
    for char, times in Counter(view.text).items() if foreign else ():
        if char > "\x7f" and char.isalpha():
            found[_SCRIPTS.get(unicodedata.name(char, "").partition(" ")[0], "other_script")] += times
    scripts = ("latin", "cyrillic", "cjk", "arabic", "other_script")
    shares = {f"{script}_share": found[script] / (found.total() or 1) for script in scripts}
    return shares | {"non_ascii_share": foreign / (len(view.text) or 1)}


def _numbers(view: _View) -> dict[str, float]:
    """Numbers as a person reads them: 1,234 is one number, [100,200] is two, x2 and v1.0 are names."""
    found, negatives = list[str](), 0
    for match in _NUMBER.finditer(view.text):
        earlier, before = f"  {view.text[max(0, match.start() - 2) : match.start()]}"[-2:]
        if before.isalpha() or before == "_" or (before == "." and earlier.isdigit()):
            continue
        found += match[0].split(",") if before in "[{(," else [match[0].replace(",", "")]
        negatives += before in "-\u2212" and not (earlier.isalnum() or earlier in ")]-")
    digits = [len(number) - ("." in number) for number in found]
    wholes = [number.partition(".")[0].lstrip("0") for number in found]
    return {
        "numbers": len(found),
        "number_magnitude": max((math.log10(int(n[:15])) + len(n[15:]) for n in wholes if n), default=0.0),
        "number_digits": sum(digits),
        "number_max_digits": max(digits, default=0),
        "decimals": sum("." in number for number in found),
        "negatives": negatives,
    }


def _form(view: _View) -> dict[str, float]:
    """How the last question is put: one form at most; without a question mark the first sentence is judged."""
    mark = max(map(view.lower.rfind, _QUESTION_MARKS))
    before = [part for part in _SENTENCE_END.split(view.lower[max(0, mark - 1000) : max(0, mark)]) if part.strip()]
    asked = before[-1] if before else view.sentences[0][:1000] if view.sentences else ""
    form = next((name for name, pattern in _FORMS.items() if pattern.search(asked)), None)
    letters = {match[0].upper() for match in _CHOICE.findall(view.text)}
    choices = next(i for i, letter in enumerate("ABCDEFGHIJK") if letter not in letters)
    end = view.lower.rstrip(" \t\r\n\"')*_$")
    return {name: name == form for name in _FORMS} | {
        "ends_question": end.endswith(_QUESTION_MARKS),
        "ends_equals": end.rstrip("?_ \uff1f").endswith("="),
        "choices": choices if choices > 1 else 0,  # a lone "a." ends a sentence
    }


def _conversation(view: _View) -> dict[str, float]:
    roles = Counter(message.role for message in view.messages)
    earlier = [message.text for message in view.messages if message.role == "assistant"]
    words = [len(text[:EDGE].split()) * max(1.0, len(text) / EDGE) for text in earlier]
    last = _edges(earlier[-1]) if earlier else ""
    return {
        "turns": len(view.messages),
        "ends_with_user": bool(view.messages) and view.messages[-1].role == "user",
        "system_prompt": bool(view.system),
        "log_system_chars": math.log1p(len(view.system)),
        "assistant_turns": len(earlier),
        "log_assistant_words": math.log1p(sum(words) / (len(words) or 1)),
        "log_last_assistant_words": math.log1p(words[-1] if words else 0.0),
        "last_assistant_digits": _among(last.encode("ascii", "ignore"), _DIGITS) > 0,
        "last_assistant_answer": _RESULT.search(last) is not None,
        "tool_turns": roles["tool"] + roles["function"],
    }


def _request(view: _View) -> dict[str, float]:
    sampling, tokens = _mapping(view.query.sampling), _prompt_tokens(view)
    choice, kind = sampling.get("tool_choice"), _mapping(sampling.get("response_format")).get("type")
    limit, temperature = _number(view.query.max_tokens), _number(sampling.get("temperature"))
    return {
        "tools": len(_items(view.query.tools)),
        "tool_forced": choice == "required" or bool(_mapping(choice)),
        "json_output": isinstance(kind, str) and kind.startswith("json"),
        "stop_given": bool(sampling.get("stop")),
        "images": sum(message.images for message in view.messages),
        "log_max_tokens": math.log1p(max(limit or 0.0, 0.0)),
        "max_tokens_absent": limit is None,
        "temperature": temperature or 0.0,
        "temperature_absent": temperature is None,
        "prompt_tokens": tokens,
        "log_prompt_tokens": math.log1p(tokens),
    }


def _prompt_tokens(view: _View) -> float:
    """Tokens of everything sent, without a tokenizer.

    A token per 4.6 letters or blanks, per 1.1 digits, per 1.4 punctuation marks and per 1.2 characters outside ASCII,
    measured on an even sample of the conversation; 4 tokens frame each message, JSON takes a token per 3.5 characters.
    """
    texts = [message.text for message in view.messages]
    share = min(1.0, 2 * EDGE / (sum(map(len, texts)) or 1))
    sample = "".join(text[: math.ceil(len(text) * share)] for text in texts)
    plain = sample.encode("ascii", "ignore")
    digits, soft = _among(plain, _DIGITS), _among(plain, _LETTERS + _BLANKS)
    tokens = soft / 4.6 + digits / 1.1 + (len(plain) - soft - digits) / 1.4 + (len(sample) - len(plain)) / 1.2
    pictures = IMAGE_TOKENS * sum(message.images for message in view.messages)
    stack: list[object] = [view.query.tools, *(message.calls for message in view.messages if message.calls)]
    json, seen = 0, 0
    while stack and seen < _MOST_NODES:  # a walk with a limit, so that depth, size and cycles do no harm
        item, seen = stack.pop(), seen + 1
        fields = _mapping(item)
        json += 2 + (len(item) if isinstance(item, str) else 0) + sum(len(key) + 3 for key in fields)
        stack.extend(fields.values() if fields else _items(item))
    return tokens / share + 4 * len(texts) + 3 + pictures + json / 3.5


_GROUPS: Sequence[Callable[[_View], Mapping[str, float]]] = (
    *(_counts, _text, _scripts, _numbers, _form, _conversation, _request),
)


def extract(query: Query) -> Features:
    """Describe one request. Never raises, whatever shape the client gave its messages."""
    view, found = _View(query), dict[str, float]()
    for group in _GROUPS:
        found.update(group(view))
    return Features(version=FEATURES_VERSION, values={name: float(found[name]) for name in FEATURE_NAMES})


def notable(features: Features, limit: int = 6) -> list[tuple[str, float, str]]:
    """What a person should look at: features that are present, with their notes; the telling ones first."""

    def interest(name: str) -> float:
        value = abs(features.values[name])
        return _INTEREST[name] * value / (1 + value)

    shown = sorted(filter(interest, FEATURE_NAMES), key=interest, reverse=True)  # a tie keeps the table's order
    return [(name, features.values[name], FEATURE_NOTES[name]) for name in shown[: max(0, limit)]]
