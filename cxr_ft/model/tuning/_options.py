"""Share options, and their checks, between methods."""

from dataclasses import dataclass, field

from cxr_ft.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class LowRankOptions:
    """Options of the methods that add a product of two low-rank matrices.

    Args:
        targets: target modules, in the language of `cxr_ft.model.targets`.
        rank: r, the width of the product.
        alpha: the product is scaled by alpha / rank; None: 2 * rank.
        dropout: rate on the product's input, in [0, 1).
    """

    # Queries and values, as in most of the experiments of LoRA (Hu et al.).
    targets: tuple[str, ...] = field(default=("q", "v"), metadata={"help": "target modules, as q,v or vision.attn"})
    rank: int = field(default=8, metadata={"help": "rank of the product"})
    alpha: float | None = field(default=None, metadata={"help": "the scale is alpha / rank (default: 2 * rank)"})
    dropout: float = field(default=0.0, metadata={"help": "dropout rate on the product's input"})
    lr: float = field(default=1e-3, metadata={"help": "peak learning rate"})

    def __post_init__(self) -> None:
        at_least_one("rank", self.rank)
        probability("dropout", self.dropout)

    @property
    def numerator(self) -> float:
        """Return alpha, or its default."""
        # The scale is then 2 at every rank, so that a learning rate that suits one rank suits the next.
        return 2 * self.rank if self.alpha is None else self.alpha


def at_least_one(name: str, value: int) -> None:
    """Raise a UsageError for a width, rank or count below 1."""
    if value < 1:
        raise UsageError(f"tuning.{name}: {value}; give 1 or more")


def probability(name: str, value: float) -> None:
    """Raise a UsageError for a value that is no dropout rate."""
    if not 0 <= value < 1:
        raise UsageError(f"tuning.{name}: {value}; give a number from 0 to below 1")
