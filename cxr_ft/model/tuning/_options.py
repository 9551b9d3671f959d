"""Options that several methods share."""

from dataclasses import dataclass, field

from cxr_ft.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class LowRankOptions:
    """Options of the methods that add a product of two thin matrices.

    Args:
        targets: target modules, in the language of `cxr_ft.model.targets`.
        rank: r, the width of the product.
        alpha: the product is scaled by alpha / rank; None: 2 * rank.
        dropout: on the product's input, in [0, 1).
    """

    targets: tuple[str, ...] = field(default=("q", "v"), metadata={"help": "target modules, as q,v or vision.attn"})
    rank: int = field(default=8, metadata={"help": "rank of the product"})
    alpha: float | None = field(default=None, metadata={"help": "scale times rank (default: 2 * rank)"})
    dropout: float = field(default=0.0, metadata={"help": "dropout on the product's input"})
    lr: float = field(default=1e-3, metadata={"help": "peak learning rate"})

    def __post_init__(self) -> None:
        at_least_one("rank", self.rank)
        probability("dropout", self.dropout)

    @property
    def numerator(self) -> float:
        """What the scale divides by the rank."""
        return 2 * self.rank if self.alpha is None else self.alpha


def at_least_one(name: str, value: int) -> None:
    """Refuse a width, a rank or a number of something below 1."""
    if value < 1:
        raise UsageError(f"tuning.{name}: {value}; give 1 or more")


def probability(name: str, value: float) -> None:
    """Refuse what is no rate of dropout."""
    if not 0 <= value < 1:
        raise UsageError(f"tuning.{name}: {value}; give a number from 0 to below 1")
