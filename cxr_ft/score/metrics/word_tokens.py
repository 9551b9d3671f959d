"""Split texts into words, in one way for BLEU, METEOR and CIDEr-D: lower case, then sacrebleu's tokenizer 13a."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

#: The names of both in the signatures.
TOKENIZER, CASE = "13a", "lc"


@cache
def _tokenizer() -> "Tokenizer13a":
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()


def words(text: str) -> tuple[str, ...]:
    """Return the words and signs of a text, in lower case."""
    # Trailing spaces are cut as sacrebleu cuts them, so that the words are those that BLEU counts.
    return tuple(_tokenizer()(text.lower().rstrip()).split())
