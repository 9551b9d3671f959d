"""How much of a given text a base reads, whatever the task."""

from dataclasses import dataclass, field

from cxr_ft.errors import UsageError
from cxr_ft.model.protocols import Base, TextReader


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """Options of every head on a base that reads text.

    Args:
        read_tokens: of a longer text the first so many tokens are read, special ones counted; 0: 512, or as many as
            the base has positions for.
    """

    # What every head's options say, so that nobody has to ask which head it is; those that do have them as fields.
    #: Whether the head writes texts.
    writes = False
    #: The splits' text column it learns to write; the prompt and the lengths in tokens of what is read and written.
    text = ""
    prompt = ""
    max_context = 0
    max_tokens = 0
    #: How the training loss weighs classes.
    weights = "none"

    read_tokens: int = field(default=0, metadata={"help": "tokens read of a given text (0: up to 512)"})

    def __post_init__(self) -> None:
        if self.read_tokens < 0:
            raise UsageError(f"head.read_tokens: {self.read_tokens}; give 1 or more, or 0 for the base's own")


def set_length(base: Base, config: ReadingConfig) -> None:
    """Have `base` read as `config` says.

    Raises:
        UsageError: where it reads no text, or not so much of it.
    """
    if not config.read_tokens:
        return
    if not isinstance(base, TextReader):
        raise UsageError(
            f"head.read_tokens: {config.read_tokens}; {base.name} ({base.family}) reads images: leave it 0"
        )
    base.cut(config.read_tokens)
