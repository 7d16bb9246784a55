"""Comparison of texts and splitting into words, for all metrics and the data stage, in all scripts.

- `canonical` normalises a text for comparison: Unicode NFC, white space collapsed.
- `words` splits a text at white space, for lengths and n-grams. In scripts that are written without spaces (Chinese,
  Japanese, Thai, Lao, Khmer, Burmese, Yi) each character, with its marks, is a word.
- `tokens` are the same words without case and punctuation, for ROUGE and the search for near-duplicates: letters, marks
and digits of any script. For ASCII text they are the tokens of the rouge-score package.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any

NAMED = (
    "All metrics and the search for near-duplicates split words at white space; in scripts "
    "without spaces (Chinese, Japanese, Thai and others) each character is a word. ROUGE ignores case and punctuation."
)
"""Description for pages."""

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\u30fc\p{Yi}\p{Line_Break=Complex_Context}"
_ASCII_TOKEN = re.compile(r"[a-z0-9]+")


def canonical(text: str) -> str:
    """The text normalised to NFC, with runs of white space collapsed to one space and the ends stripped."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFC", text)).split())


def words(text: str) -> list[str]:
    """The words of a text, with case and adjacent punctuation."""
    if text.isascii() or not _pattern(f"[{_UNSPACED}]").search(text):
        return text.split()
    # adjacent punctuation belongs to the character
    word = _pattern(rf"\p{{P}}*[{_UNSPACED}]\p{{M}}*[^{_UNSPACED}\p{{L}}\p{{N}}]*|[^{_UNSPACED}]+")
    return [found for run in text.split() for found in word.findall(run)]


def tokens(text: str) -> list[str]:
    """The words of a text without case and punctuation, at which words are split; empty without letters and digits."""
    if text.isascii():
        return _ASCII_TOKEN.findall(text.lower())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    letters = rf"(?![{_UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}]"
    # an invisible character (a joiner, a soft hyphen) neither divides a word nor changes it
    shown = _pattern(r"\p{Cf}+").sub("", folded)
    found: list[str] = _pattern(rf"[{_UNSPACED}]\p{{M}}*|(?:{letters})+").findall(shown)
    return found


@functools.cache
def _pattern(text: str) -> Any:
    import regex

    return regex.compile(text)
