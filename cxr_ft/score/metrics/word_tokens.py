"""Split texts of any script into words, in one way for all metrics: lower case, NFC, then sacrebleu's tokenizer 13a.

13a knows the spaces and signs of Western texts. Where a script writes no spaces between words, each character counts as
a word, as in sacrebleu's tokenizer for Chinese, and the signs of such scripts stand alone. ASCII texts are as 13a and
rouge-score have them.
"""

import unicodedata
from functools import cache
from typing import TYPE_CHECKING

import regex  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

#: The names of both in the signatures; the second part is what is done before 13a, of which ASCII has nothing.
TOKENIZER, CASE = "13a,nfc,unspaced-by-character", "lc"

#: A character of a script without spaces, with the marks that it bears; or a sign that 13a would leave on its word:
#: Armenian, Arabic, Indian and Ethiopic ones, and those of East Asia.
_ALONE = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
    r"|[\u0589\u060C\u061B\u061F\u06D4\u0964\u0965\u1361-\u1368\u3000-\u303F\uFF00-\uFFEF&&\p{P}]",
    flags=regex.VERSION1,
)
#: Letters with their marks, and digits. Without the marks the vowels of Indian scripts would cut their words.
_LETTERS = regex.compile(r"[\p{L}\p{M}\p{N}]+")


def spaced(text: str) -> str:
    """Return a text in lower case and NFC, with spaces around what is a word of its own without them."""
    # Most texts, and nothing in them to be changed.
    if text.isascii():
        return text.lower()
    return str(_ALONE.sub(r" \g<0> ", unicodedata.normalize("NFC", text.lower())))


def words(text: str) -> tuple[str, ...]:
    """Return the words and signs of a text."""
    # Trailing spaces are cut as sacrebleu cuts them, so that the words are those that BLEU counts.
    return tuple(_tokenizer()(spaced(text).rstrip()).split())


def letters(text: str) -> list[str]:
    """Return the words of a text without its signs, as ROUGE counts them; of ASCII those of rouge-score."""
    return [str(word) for word in _LETTERS.findall(spaced(text))]


@cache
def _tokenizer() -> "Tokenizer13a":
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()
