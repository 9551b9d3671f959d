"""Set how many tokens of an input text a base reads, for every task."""

from dataclasses import dataclass, field

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base, is_text_reader


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """Options of every head on a base that reads text.

    Args:
        read_tokens: number of tokens of an input text that are read, special ones included; longer texts are cut at
            the end. 0: 512, or as many as the base has positions for.
    """

    # Every head's options have these, so that callers need not distinguish heads; who uses one has it as a field.
    #: True for a head that generates text.
    writes = False
    #: Text column of the splits to learn; prompt; lengths in tokens of context and generated text.
    text = ""
    prompt = ""
    max_context = 0
    max_tokens = 0
    #: Class weights of the training loss.
    weights = "none"

    read_tokens: int = field(default=0, metadata={"help": "tokens read of an input text (0: up to 512)"})

    def __post_init__(self) -> None:
        if self.read_tokens < 0:
            raise UsageError(f"head.read_tokens: {self.read_tokens}; give 1 or more, or 0 for the base's own")


def set_length(base: Base, config: ReadingConfig) -> None:
    """Set the length of text that `base` reads.

    Raises:
        UsageError: if it reads no text, or has fewer positions.
    """
    if not config.read_tokens:
        return
    if not is_text_reader(base):
        raise UsageError(
            f"head.read_tokens: {config.read_tokens}; {base.name} ({base.family}) reads images: leave it 0"
        )
    base.cut(config.read_tokens)
