"""One spelling a number: 1,234 and $1234.00 are 1234; 0.5, 1/2 and 2/4 are 1/2. Exact, and linear in the text."""

from __future__ import annotations

import re
from fractions import Fraction

_DIGITS = 40  # longer numbers are compared as strings of digits, never calculated with
_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s?[$€£¥₹]?\s?(?P<sign2>[+-]?)(?:(?P<whole>[0-9]{1,9})\s{1,3}(?=[0-9]{1,9}/[0-9]{1,9}(?![0-9.,e])))?"
    rf"(?P<top>{_UNSIGNED})(?:[eE](?P<exponent>[+-]?[0-9]+))?(?:\s?/\s?(?P<bottom>{_UNSIGNED}))?"
    r"(?:\s?(?P<percent>%|percent\b))?(?:\s?[€£¥₹])?"
)
# A unit after a number is dropped. These are no units: they change the value, or say that there is more than one.
SCALE = re.compile(
    r"(?i)(?:hundred|thousand|million|billion|trillion|dozen|lakh|crore|k|[mb]n|[ap]m|[ap]\.m|bce?|ad|ce|st|nd|rd|th)\b"
)
_OPERATOR = re.compile(
    r"(?i)(?:and|or|to|by|times|plus|minus|over|out|squared|cubed|factorial|base|mod|modulo|pi|sqrt|root|sin|cos|tan|log|ln"
    r"|exp|[bceinxyz])\b"
)
_ATTACHED = re.compile(r"(?i)(?:[kcm]g|[kcm]m|[mc]l|kmh?|ft|lbs?|oz|hrs?|mins?|secs?|ms|mph|usd|eur|deg)\b")
_UNIT_POWER = re.compile(r"(?<=[A-Za-z])(?:\^?\{?[23]\}?|[²³])(?![0-9])")


def _trim(digits: str) -> str:
    """A decimal without thousands separators, leading zeros and trailing zeros of the fraction."""
    whole, _, part = digits.replace(",", "").partition(".")
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    return f"{whole}.{part}" if part else whole


def _spell(value: Fraction) -> str:
    """One spelling a value: 5, 3/4, 1/3, 12.99. A ratio of small numbers and what never ends stay fractions."""
    top, bottom = abs(value.numerator), value.denominator
    twos = (bottom & -bottom).bit_length() - 1
    rest, fives = bottom >> twos, 0
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if bottom == 1 or rest != 1 or max(top, bottom) <= 10:
        return str(value)
    places = max(twos, fives)
    digits = str(top * 10**places // bottom).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _canonical(match: re.Match[str]) -> str | None:
    """The one spelling of a number. Exponents and digits are bounded before anything is calculated."""
    negative = (match["sign"] == "-") != (match["sign2"] == "-")
    top, bottom, exponent = _trim(match["top"]), _trim(match["bottom"] or "1"), match["exponent"] or "0"
    power = exponent.lstrip("+-").lstrip("0") or "0"
    percent = "%" if match["percent"] else ""
    if bottom == "0":
        return None
    if top == "0" and not match["whole"]:
        return f"0{percent}"
    if max(len(top), len(bottom)) > _DIGITS or len(power) > 2 or int(power) > _DIGITS:
        scale = "" if power == "0" else f"e{'-' if exponent[0] == '-' else ''}{power}"
        return f"{'-' if negative else ''}{top}{scale}{'' if bottom == '1' else '/' + bottom}{percent}"
    scaled = Fraction(top) * Fraction(10) ** (-int(power) if exponent[0] == "-" else int(power))
    value = scaled / Fraction(bottom) + int(match["whole"] or 0)
    return _spell(-value if negative else value) + percent


def number(text: str, *, units: bool = True) -> str | None:
    """The canonical number if that is all the text says: "-$1,234.50", "1 1/2", and with units "12 apples", "5 m^2"."""
    match = _NUMBER.match(text)
    if match is None:
        return None
    rest = text[match.end() :].lstrip("*_")
    if bare := rest.strip(" .,;:?"):
        if not (units and (rest[0] in " (,;°" or _ATTACHED.match(rest))) or SCALE.match(bare) or _OPERATOR.match(bare):
            return None
        more = any(c.isdigit() or c in "+=<>*!" for c in _UNIT_POWER.sub("", bare))
        if bare[0] != "(" and (more or not (bare[0].isalpha() or bare[0] == "°")):
            return None
    return _canonical(match)
