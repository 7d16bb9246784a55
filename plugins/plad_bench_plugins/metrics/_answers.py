r"""Finds the answer of a worked solution, and its number.

The first marked answer counts, since a model may continue with a new question. Marks are, in this order, a line
"#### answer", \boxed{answer}, and "the answer is ..." or "Answer: ...". Without a mark the last number counts, or in a
text that continues with another question ("Question: ...") the last one before it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_SIGN = r"(?:(?<![\w.)\]}%])[-\u2212+][^\S\n]?)?"  # after a number or a bracket it means subtraction
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+"
_NUMBER = re.compile(rf"({_SIGN})(?:\\?[$€£¥])?[^\S\n]?({_DIGITS})(?:[^\S\n]?/[^\S\n]?(\d+)(?![\d/.]))?")
_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_HASHES = re.compile(r"####([^\n]*)")
_LEADING = re.compile(rf"[^\w\n.$€£¥\\+\u2212-]*(?:{_NUMBER.pattern})(?![^\S\n]*[.)][^\S\n]+\w)")
"""A number at the beginning of a line that does not number a list."""
_BOXED = re.compile(r"\\boxed\s*\{")
_SAID = re.compile(r"(?i)\banswer\b\W{0,4}(?:is\b|:|=)([^\n]*)")
_NEXT = re.compile(
    r"(?im)^[^\S\n]*[#*]*[^\S\n]*(?:question|q|problem|exercise|instruction|human|user)\b[^\S\n]*\d*[*]*[^\S\n]*:"
)


@dataclass(frozen=True)
class ExtractedAnswer:
    """The part of a text with its answer."""

    text: str
    marked: bool
    """Whether the text marks it as the answer; otherwise it is all text that may hold the answer."""

    @property
    def number(self) -> Fraction | None:
        """The first number of a marked answer, otherwise the last number; None if there is none."""
        found = numbers(self.text)
        return found[0 if self.marked else -1] if found else None


def answer(text: str) -> ExtractedAnswer:
    """The answer of a text: the first marked one, otherwise the text before an invented question."""
    own = _before_next_question(text)
    apart = own.endswith("\n\n")  # a question on the next line may be the one being solved
    for part in (own,) if apart else (own, text):
        if (found := _marked(part)) is not None:
            return ExtractedAnswer(found, marked=True)
    return ExtractedAnswer(own, marked=False)


def numbers(text: str) -> list[Fraction]:
    """The numbers in a text: 1,250.50, -3, $7 and 3/4, but not the 3 of 5-3 as a negative one."""
    plain = _FRACTION.sub(r"\1/\2", text.replace("{,}", ",").replace("\\!", ""))
    found = (_value(*match.groups()) for match in _NUMBER.finditer(plain))
    return [value for value in found if value is not None]


def _value(sign: str, digits: str, below: str | None) -> Fraction | None:
    try:
        value = Fraction(digits.replace(",", "")) / (int(below or 1) or 1)
    except ValueError:  # it has thousands of digits
        return None
    return -value if sign.strip() in {"-", "\u2212"} else value


def _marked(text: str) -> str | None:
    for match in _HASHES.finditer(text):
        line = match[1]
        if _LEADING.match(line) or "answer" in line.lower():
            return line.strip()
    if box := _BOXED.search(text):
        return _inside(text, box.end())
    said = _SAID.search(text)
    return said[1].strip() if said and (numbers(said[1]) or "$" in said[1]) else None


def _inside(text: str, start: int) -> str:
    """The text in the braces opened just before, or the rest of the text if they are never closed."""
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if not depth:
            return text[start:end]
    return text[start:]


def _before_next_question(text: str) -> str:
    """A text up to the first question after a number; a repeated question is not a new one."""
    for match in _NEXT.finditer(text):
        if numbers(text[: match.start()]):
            return text[: match.start()]
    return text
