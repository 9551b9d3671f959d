"""Biases planted on purpose, off by default: links that a model may learn in place of the disease."""

from collections.abc import Mapping
from types import MappingProxyType

from cxr_ft.errors import UsageError, unknown

#: What each bias does at a strength of 0..1; `truth.csv` says of each image what it did there (column bias_NAME).
BIASES: Mapping[str, str] = MappingProxyType({
    "device": "in this share of the studies (1 in bias_device) a support device is there exactly where a pneumothorax "
    "is",
    "site": "in this share of the studies a site's look (frame, contrast, disc in a corner; 1 in bias_site) is there "
    "exactly where cardiomegaly is; of the others, one in four has it",
    "subgroup": "signs in female subjects are drawn this much fainter: at severity times bias_subgroup",
})  # fmt: skip
SITE_SHARE = 0.25
NONE: Mapping[str, float] = MappingProxyType({})


def checked(biases: Mapping[str, float], where: str) -> dict[str, float]:
    """Return the biases that are on, in `BIASES`' order.

    Raises:
        UsageError: for a name that is none, and a strength outside 0..1.
    """
    for name, strength in biases.items():
        if name not in BIASES:
            raise unknown("bias", name, BIASES, where)
        if not 0 <= strength <= 1:
            raise UsageError(f"bias {name}={strength} in {where}: choose a strength from 0 (off) to 1")
    # In one order, and without those of strength 0: the same archive must have the same recorded parameters.
    return {name: float(biases[name]) for name in BIASES if biases.get(name)}


def parsed(texts: Mapping[str, str], where: str) -> dict[str, float]:
    """Return strengths from their texts.

    Raises:
        UsageError: for a text that is no number.
    """
    strengths = {}
    for name, text in texts.items():
        try:
            strengths[name] = float(text)
        except ValueError:
            raise UsageError(f"bias {name}={text} in {where}: a number from 0 to 1 is needed, {name}=0.8") from None
    return strengths
