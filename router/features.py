"""What a request looks like to the predictors: counts and shares, no network, no model weights.

Most describe the *question*, the last user message; the rest the conversation and what was asked of the engine. Work is
bounded: of a long text only the first and last `EDGE` characters are read and counted; lengths are scaled up to it all.
Of a long conversation the first and last `_MOST_TURNS` messages are read.

To add a feature: a row in `_TABLE` (a value in a function, if the row cannot say it), `FEATURES_VERSION` up, retrain.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from strategies.types import Query

FEATURES_VERSION = 1
EDGE = 8_000  # characters read at either end of a long text
IMAGE_TOKENS = 600  # roughly what a vision model spends on one picture
_MOST_TURNS = 100  # messages read at either end of a long conversation
_MOST_NODES = 4_000  # JSON values looked at when sizing tools; what lies beyond is not counted

# Interest (to a person; 0: never `notable`), name | note | what the question is searched for. Searches:
# `signs` counts exact strings, `pattern` matches of an expression, `words` whole words, `prompt` words of the system
# prompt too, `verbs` finds words that open a sentence (0 or 1), `asks` how the last question is put (the first row that
# fits, 0 or 1). Without a search a function below gives the value. Patterns begin with a literal or a character class,
# so that the matcher skips fast, and cannot backtrack far. The rows' order is the vector's.
_TABLE = r"""
2 log_chars | length in characters, log1p
2 log_words | length in words, log1p
2 log_lines | number of lines, log1p
0 mean_word_length | letters in the average word
0 single_letter_words | words of one letter: variables, or letters as things
0 upper_share | share of the ASCII letters in upper case
0 punctuation_share | share of the characters that are ASCII punctuation
0 digit_share | share of the characters that are digits
0 latin_share | share of the letters in Latin script
9 non_ascii_share | share of the characters outside ASCII
9 cyrillic_share | share of the letters in Cyrillic script
9 cjk_share | share of the letters in Chinese, Japanese or Korean script
9 arabic_share | share of the letters in Arabic script
9 other_script_share | share of the letters in any other script
5 numbers | numbers written in digits
5 number_magnitude | log10 of the largest number
0 number_digits | digits of all numbers together
0 number_max_digits | digits of the longest number
5 decimals | numbers with a decimal point
5 negatives | negative numbers | pattern [-−](?<![\w)\]-][-−])[0-9]
5 fractions | fractions a/b | pattern [0-9] ?/ ?[0-9]
4 op_plus | plus signs | signs +
4 op_minus | minus signs before a number or a bracket | pattern [-−] ?[0-9(]
4 op_star | asterisks | signs *
4 op_times | times: ×, 2 x 3 | pattern [0-9×\\](?:(?<=×)|(?<=\\)(?:times|cdot)\b|(?<=[0-9]) ?x(?= ?[0-9]))
4 op_slash | slashes and division signs | signs / ÷
4 op_caret | powers: ^ or ** | signs ^ **
4 op_equals | equals signs | signs =
4 op_less | less-than signs | signs <
4 op_greater | greater-than signs | signs >
4 op_percent | percent signs | signs %
7 latex_commands | LaTeX commands | pattern \\[a-zA-Z]+
7 boxed | question or system prompt asks for \boxed
7 dollar_maths | formulas between dollar signs | pattern \$(?! )[^$\n]{0,200}[^$\n ]\$(?![0-9])
6 code_fences | code fences | signs ```
6 backticks | backticks | signs `
6 code_keywords | programming words | words def return import class const elif lambda println static python java sql
6 indented_lines | lines indented like code | pattern \n(?:    |\t)
6 semicolons | semicolons | signs ;
6 braces | opening curly brackets | signs {
3 round_brackets | opening round brackets | signs (
3 square_brackets | opening square brackets: lists, indices | signs [
3 commas | commas: items of a list | signs , 、 ，
3 quotes | quotation marks | signs " “ ” „ « » 「 」
3 choices | lettered options: A), (B), C.
6 form_how_many | asks how many | asks \bhow many\b
6 form_how_much | asks how much | asks \bhow much\b
6 form_what | asks what | asks \bwhat\b
6 form_which | asks which | asks \bwhich\b
6 form_why | asks why | asks \bwhy\b
6 form_who | asks who | asks \bwho(?:se|m)?\b
6 form_how | asks how | asks \bhow\b
6 form_yes_no | asks for yes or no | asks \A\W*(?:is|are|was|were|do|does|did|can|could|will|would|should|has)\b
6 form_when | asks when or where | asks \b(?:when|where)\b
6 ends_question | ends with a question mark
6 ends_equals | ends with an equals sign: a sum to finish
7 do_compute | tells to compute | verbs compute calculate evaluate add subtract multiply divide
7 do_find | tells to find | verbs find determine identify
7 do_solve | tells to solve | verbs solve
7 do_prove | tells to prove or show | verbs prove show verify
7 do_write | tells to write | verbs write create implement generate compose draft build
7 do_explain | tells to explain | verbs explain describe discuss
7 do_sort | tells to sort | verbs sort arrange order rank
7 do_reverse | tells to reverse | verbs reverse
7 do_count | tells to count | verbs count
7 do_list | tells to list or name | verbs list name enumerate give
7 do_translate | tells to translate | verbs translate
7 do_convert | tells to convert | verbs convert change transform
7 do_simplify | tells to simplify | verbs simplify factor expand reduce
7 do_compare | tells to compare | verbs compare contrast
7 do_summarise | tells to summarise or rewrite | verbs summarise summarize rewrite paraphrase shorten
7 do_classify | tells to classify or choose | verbs classify choose select pick decide label
5 words_each | a rate: each, per, every | words each per every apiece daily
5 words_total | a sum: total, altogether | words total altogether sum combined together
5 words_left | a remainder: left, remain | words left remain remains remaining remainder rest leftover
5 words_more | more, extra, increase | words more extra additional increase increases increased gain gained added
5 words_less | less, fewer, lost, sold | words less fewer decrease lost gave spent sold ate minus
5 words_times | times, twice, double | words times twice double triple thrice product multiplied
5 words_half | parts: half, third, percent | words half third thirds quarter quarters percent percentage fraction
5 words_money | money: dollars, cost | words dollar dollars cent cents cost costs price pay pays paid money profit
5 words_compare | larger, smaller, than | words larger smaller greater bigger taller shorter older younger faster than
5 words_extreme | largest, smallest, most | words largest smallest greatest maximum minimum least most highest lowest
5 words_time | time: day, hour | words day days week weeks month months year years hour hours minute minutes seconds
5 words_calendar | dates: weekdays, today | words monday tuesday wednesday thursday friday saturday sunday date today
5 words_letters | spelling: letter, vowel | words letter letters word words spell vowel vowels alphabet palindrome
5 words_order | first, last, next | words first last next before after backward backwards ascending descending
5 words_algebra | algebra: equation | words equation equations polynomial integer integers prime function matrix
5 words_geometry | geometry: triangle | words triangle circle square rectangle angle angles radius area perimeter
5 words_logic | logic: true, implies, liar | words true false implies if liar knight knave statement premise
5 words_knowledge | facts: capital, country | words capital country president city author wrote invented war
5 words_opinion | sentiment and opinion | words sentiment positive negative review opinion feel best worst prefer
5 words_negation | negations | words not no never none neither nor without cannot don't doesn't isn't can't won't
7 words_steps | asked to reason, or by the system prompt | prompt step steps think reason reasoning carefully
7 words_brief | asked to be brief, or by the system prompt | prompt only just brief briefly short concise directly
7 words_format | a format named, or by the system prompt | prompt json table format markdown xml csv yaml schema
0 turns | messages in the conversation
4 system_prompt | has a system prompt
4 log_system_chars | length of the system prompt in characters, log1p
4 assistant_turns | earlier answers in the conversation
4 log_assistant_words | words of the average earlier answer, log1p
4 log_last_assistant_words | words of the latest earlier answer, log1p
4 last_assistant_digits | the latest earlier answer has digits
4 last_assistant_answer | the latest earlier answer states a result: "answer is", \boxed, ####
4 tool_turns | results of tools in the conversation
8 tools | tools offered
8 tool_forced | a tool must be called
8 json_output | the answer must be JSON
8 stop_given | stop strings given
8 images | pictures in the conversation
0 log_max_tokens | the client's bound on one answer in tokens, log1p; 0 if none
0 max_tokens_absent | the client set no bound on tokens
0 temperature | the client's temperature; 0 if none
0 temperature_absent | the client set no temperature
0 prompt_tokens | estimated prompt tokens: the whole conversation, tools, pictures
0 log_prompt_tokens | the same, log1p
"""  # noqa: RUF001 - the signs themselves: a multiplication sign, a minus, full-width commas
_ROW = re.compile(r"(?m)^(\d) (\w+) \| ([^|\n]+?)(?: \| (\w+) (.+))?$")
_ROWS = [match.groups("") for match in _ROW.finditer(_TABLE.replace("\n    ", " "))]
FEATURE_NOTES: Mapping[str, str] = {name: note for _, name, note, _, _ in _ROWS}
FEATURE_NAMES: tuple[str, ...] = tuple(FEATURE_NOTES)
_INTEREST = {name: int(interest) for interest, name, *_ in _ROWS}
_TARGETS = {kind: {row[1]: row[4] for row in _ROWS if row[3] == kind} for kind in {row[3] for row in _ROWS}}
_SIGNS = {name: target.split() for name, target in _TARGETS["signs"].items()}
_PATTERNS = {name: re.compile(target) for name, target in _TARGETS["pattern"].items()}
_FORMS = {name: re.compile(target) for name, target in _TARGETS["asks"].items()}
_LEXICON = {kind: {word: name for name in rows for word in rows[name].split()} for kind, rows in _TARGETS.items()}
_QUESTION_MARKS, _POLITE = ("?", "\uff1f"), frozenset({"please", "now", "then", "and", "kindly", "also"})
_WORD = re.compile(r"[^\W\d_]+(?:'[a-z]+)?")
_NUMBER = re.compile(
    r"[0-9](?<![A-Za-z_0-9][0-9])(?<![0-9]\.[0-9])"
    r"(?:(?<![\[({,][0-9])[0-9]{0,2}(?:,[0-9]{3}(?![0-9]))+|[0-9]*)(?:\.[0-9]+)?"
)
_SENTENCE_END = re.compile(r"[.!?:;\n\u3002\uff1f\uff01]+(?<![.!?:;](?=[0-9a-z]))")
_CHOICE = re.compile(r"[A-Ja-j](?<!\w[A-Ja-j])(?<!\w\([A-Ja-j])[).:]")
_RESULT = re.compile(r"answer is|answer:|\\boxed|####", re.IGNORECASE)
_UPPER, _DIGITS, _BLANKS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"0123456789", b" \t\r\n\v\f"
_LETTERS = _UPPER + _UPPER.lower()
# The first word of a letter's Unicode name tells its script.
_EAST_ASIAN = dict.fromkeys(("CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH", "HANGUL", "IDEOGRAPHIC"), "cjk")
_SCRIPTS = {"LATIN": "latin", "FULLWIDTH": "latin", "CYRILLIC": "cyrillic", "ARABIC": "arabic", **_EAST_ASIAN}


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
        sent = _items(query.messages)
        self.turns = len(sent)
        # of a very long conversation the opening and the latest turns: its middle says little about what is asked now
        kept = sent if self.turns <= 2 * _MOST_TURNS else [*sent[:_MOST_TURNS], *sent[-_MOST_TURNS:]]
        self.messages = [_Message(raw) for raw in kept]
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
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        return None
    return float(value)


def _edges(text: str) -> str:
    return text if len(text) <= 2 * EDGE else f"{text[:EDGE]}\n{text[-EDGE:]}"


def _among(text: bytes, characters: bytes) -> int:
    """How many characters of `text` are among `characters`: at the speed of C, which a loop is not."""
    return len(text) - len(text.translate(None, characters))


def _tally(kind: str, *texts: Mapping[str, int]) -> dict[str, float]:
    """Sum the counts of the words that belong to each feature."""
    found, lexicon = dict.fromkeys(_TARGETS[kind], 0.0), _LEXICON[kind]
    for words in texts:
        for word in lexicon.keys() & words.keys():
            found[lexicon[word]] += words[word]
    return found


def _counts(view: _View) -> dict[str, float]:
    """Everything a row of the table says by itself."""
    system = Counter(_WORD.findall(view.system[:EDGE].lower()))
    opening = (_WORD.findall(sentence[:40]) for sentence in view.sentences)
    verbs = Counter(next((word for word in words if word not in _POLITE), "") for words in opening)
    return {
        **{name: sum(map(view.text.count, signs)) for name, signs in _SIGNS.items()},
        **{name: len(pattern.findall(view.text)) for name, pattern in _PATTERNS.items()},
        **_tally("words", view.words),
        **_tally("prompt", view.words, system),
        **{name: count > 0 for name, count in _tally("verbs", verbs).items()},
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
    found = [number.replace(",", "") for number in _NUMBER.findall(view.text)]
    digits = [len(number) - ("." in number) for number in found]
    wholes = (number.partition(".")[0].lstrip("0") for number in found)
    size, largest = max(((len(whole), whole) for whole in wholes), default=(0, ""))
    return {
        "numbers": len(found),
        "number_magnitude": math.log10(int(largest[:15])) + max(0, size - 15) if largest else 0.0,
        "number_digits": sum(digits),
        "number_max_digits": max(digits, default=0),
        "decimals": sum("." in number for number in found),
    }


def _form(view: _View) -> Mapping[str, float]:
    """How the last question is put: one form at most; without a question mark the first sentence is judged."""
    mark = max(map(view.lower.rfind, _QUESTION_MARKS))
    passage = view.lower[max(0, mark - 1000) : max(0, mark)].replace("\n\n", "; ").replace("\n", " ")
    before = [part for part in _SENTENCE_END.split(passage) if part.strip()]
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
    last = _edges("".join(earlier[-1:]))
    return {
        "turns": view.turns,
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

    A token per 4.6 letters or blanks, per digit, per 1.3 punctuation marks, per 1.2 characters outside ASCII, on an
    even sample of the conversation; 4 frame each message, JSON takes one per 3.5 characters, a picture its own.
    """
    texts = [message.text for message in view.messages]
    share = min(1.0, 2 * EDGE / (sum(map(len, texts)) or 1))
    sample = "".join(text[: math.ceil(len(text) * share)] for text in texts)
    plain = sample.encode("ascii", "ignore")
    digits, soft = _among(plain, _DIGITS), _among(plain, _LETTERS + _BLANKS)
    tokens = soft / 4.6 + digits + (len(plain) - soft - digits) / 1.3 + (len(sample) - len(plain)) / 1.2
    tokens = tokens / share * (view.turns / (len(texts) or 1)) + 3 + 4 * view.turns
    tokens += IMAGE_TOKENS * sum(message.images for message in view.messages)
    stack: list[object] = [view.query.tools, *(message.calls for message in view.messages if message.calls)]
    json, seen = 0, 0
    while stack and seen < _MOST_NODES:  # a walk with a limit, so that depth, size and cycles do no harm
        item, seen = stack.pop(), seen + 1
        fields = _mapping(item)
        json += 2 + (len(item) if isinstance(item, str) else 0) + sum(len(key) + 3 for key in fields)
        stack.extend(fields.values() if fields else _items(item))
    return tokens + json / 3.5


def extract(query: Query) -> Features:
    """Describe one request. Never raises, whatever shape the client gave its messages."""
    view, found = _View(query), dict[str, float]()
    for group in (_counts, _text, _scripts, _numbers, _form, _conversation, _request):
        found.update(group(view))
    return Features(version=FEATURES_VERSION, values={name: float(found[name]) for name in FEATURE_NAMES})


def notable(features: Features, limit: int = 6) -> list[tuple[str, float, str]]:
    """What a person should look at: features that are present, with their notes; the telling ones first."""

    def interest(name: str) -> float:
        return _INTEREST[name] * min(1.0, abs(features.values[name]))

    shown = sorted(filter(interest, FEATURE_NAMES), key=interest, reverse=True)  # ties keep the table's order
    return [(name, features.values[name], FEATURE_NOTES[name]) for name in shown[: max(0, limit)]]
