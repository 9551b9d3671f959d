"""RadGraph, CheXbert, RadCliQ and GREEN through radeval (Xu et al., MIT licence), an optional extra.

They are trained models: their weights are fetched from the Hugging Face hub, once, and only where the caller allows it.
None of the four sends a report to anybody; GREEN's weights bring code that transformers runs. The tests of this package
have not run them with their weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cxr_ft.errors import UsageError, unknown
from cxr_ft.score.arrays import Metrics

INSTALL = "pip install 'cxr_ft[clinical]'"


@dataclass(frozen=True)
class Weights:
    """A file of the hub, `file` of `repo`, stored in the user's cache folder `cache`; empty: in the hub's own."""

    repo: str
    file: str
    cache: str = ""

    def is_cached(self) -> bool:
        """Return whether it was fetched; it needs radeval's own dependencies."""
        from appdirs import user_cache_dir  # type: ignore[import-not-found]
        from huggingface_hub import try_to_load_from_cache

        # The path of radeval 2.2 below the user's cache folder; the package offers no function that returns it.
        app, *rest = self.cache.split("/")
        folder = Path(user_cache_dir(app), *rest) if app else None
        return isinstance(try_to_load_from_cache(self.repo, self.file, cache_dir=folder), str)


@dataclass(frozen=True)
class Model:
    """A metric: radeval's name of it, what it needs, its keys, and in words what it measures."""

    radeval: str
    weights: tuple[Weights, ...]
    keys: tuple[str, ...]
    measures: str


#: The hub folder of three of them, and where radeval 2.2 keeps RadGraph's.
_RRG, _RADGRAPH = "StanfordAIMI/RRG_scorers", "radgraph/0.1.18"
_CHEXBERT = (Weights(_RRG, "chexbert.pth", "chexbert"), Weights("bert-base-uncased", "config.json"))
MODELS = {
    "radgraph": Model(
        "radgraph",
        (Weights(_RRG, "radgraph-xl.tar.gz", _RADGRAPH),),
        ("radgraph_simple", "radgraph_partial", "radgraph_complete"),
        "entities and relations in common, three strictnesses (Jain et al. 2021)",
    ),
    "chexbert": Model(
        "f1chexbert",
        _CHEXBERT,
        tuple(f"f1chexbert_{size}_{mean}_f1" for size in ("5", "all") for mean in ("micro", "macro", "weighted")),
        "F1 of the labels that CheXbert reads (Smit et al. 2020)",
    ),
    "radcliq": Model(
        "radcliq",
        (*_CHEXBERT, Weights(_RRG, "radgraph.tar.gz", _RADGRAPH), Weights("distilroberta-base", "config.json")),
        ("radcliq_v1",),
        "errors a radiologist would count, lower is better (Yu et al. 2023)",
    ),
    "green": Model(
        "green",
        (Weights("StanfordAIMI/GREEN-radllama2-7b", "config.json"),),
        ("green",),
        "errors counted by a language model of 7 billion parameters (Ostmeier et al. 2024)",
    ),
}


def evaluate(
    references: Sequence[str], generated: Sequence[str], names: Sequence[str], *, download: bool = False
) -> Metrics:
    """Score N generated reports by some of MODELS; pairs with a blank reference are left out.

    Args:
        names: of MODELS.
        download: whether weights that are not here may be fetched.

    Returns:
        JSON-ready: the keys of each model, means over pairs; "n"; "signature"; "undefined".

    Raises:
        UsageError: for an unknown name, where radeval is not installed, or where weights are missing and may not be
            fetched.
        ValueError: where the texts differ in number.
    """
    from importlib.metadata import version

    pairs = [(r, g) for r, g in zip(references, generated, strict=True) if r.strip()]
    if wrong := [name for name in names if name not in MODELS]:
        raise unknown("clinical model", wrong[0], MODELS)
    # Before radeval is imported: it fetches weights on its own, whether that was allowed or not.
    needed = {name: missing(name) for name in names}
    for name, lacks in needed.items():
        # A missing package cannot be fetched as weights can, whatever is allowed.
        if lacks and (not download or lacks == [INSTALL]):
            raise UsageError(f"{name} cannot be computed: it needs {', '.join(lacks)}")
    if not pairs:
        keys = [key for name in names for key in MODELS[name].keys]
        return {**dict.fromkeys(keys), "n": 0, "undefined": {"all": "no reference has any text"}}
    from radeval import RadEval  # type: ignore[import-not-found]

    model = RadEval(metrics=[MODELS[name].radeval for name in names], show_progress=False)
    values = model(refs=[r for r, _ in pairs], hyps=[g for _, g in pairs])
    scores = {key: float(values[key]) for name in names for key in MODELS[name].keys}
    return {**scores, "n": len(pairs), "signature": f"radeval {version('radeval')}", "undefined": {}}


def missing(name: str) -> list[str]:
    """Return what a model of MODELS lacks here: INSTALL alone, or weights to fetch; nothing if complete."""
    from importlib.util import find_spec

    if any(find_spec(module) is None for module in ("radeval", "appdirs", "dotmap", "huggingface_hub")):
        return [INSTALL]
    return [f"{w.file} of {w.repo}" for w in MODELS[name].weights if not w.is_cached()]
