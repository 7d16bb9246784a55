"""How texts are compared and divided into words, by every metric and by the data stage, in whatever script.

- `canonical` is what makes two texts the same: Unicode-normalised (NFC), white space collapsed.
- `words` is what lengths and n-grams count: the runs between white space. In scripts that are written without spaces
  (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Yi) each character, with its marks, is a word.
- `tokens` are the same words without case and punctuation, as ROUGE and the search for near-duplicates compare them:
  letters, marks and digits of any script. Those of ASCII text are the tokens of the rouge-score package.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any

NAMED = (
    "Words, in every metric and in the search for near-duplicates: what stands between white space; in scripts "
    "without spaces (Chinese, Japanese, Thai and others) each character. ROUGE leaves out case and punctuation."
)
"""What a page says of it."""

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\u30fc\p{Yi}\p{Line_Break=Complex_Context}"
_ASCII_TOKEN = re.compile(r"[a-z0-9]+")


def canonical(text: str) -> str:
    """The text itself: normalised to NFC, each run of white space a single space, none at the ends."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFC", text)).split())


def words(text: str) -> list[str]:
    """The words of a text as they stand, with case and with the punctuation that touches them."""
    if text.isascii() or not _pattern(f"[{_UNSPACED}]").search(text):
        return text.split()
    # punctuation belongs to the character that it touches, as it does to a word
    word = _pattern(rf"\p{{P}}*[{_UNSPACED}]\p{{M}}*[^{_UNSPACED}\p{{L}}\p{{N}}]*|[^{_UNSPACED}]+")
    return [found for run in text.split() for found in word.findall(run)]


def tokens(text: str) -> list[str]:
    """The words of a text without case and punctuation, which divides words; empty if it has no letter and no digit."""
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
