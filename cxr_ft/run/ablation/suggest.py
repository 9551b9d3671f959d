"""Propose targets and a rank for LoRA within a budget, from one pass over train; compare them with q,v and all.

A head is trained on the frozen base first, since gradients at a random head carry no information. Then the gradient of
the whole training loss is taken with respect to each candidate matrix G. The energy of G (the sum of its
squared singular values) that an adapter of rank r can follow in a first step is at most that of its r largest singular
values (Eckart and Young 1936), and costs r times the sum of its two widths in parameters. For each rank, modules are
taken by energy a parameter until the budget is spent; the rank whose modules have most energy is proposed. Then the
proposal and its rivals are trained, equal in parameters, seeds and learning rate, and compared on the test subjects.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_ft import config
from cxr_ft.data import manifest
from cxr_ft.data.dataset import split_dataset
from cxr_ft.errors import UsageError
from cxr_ft.files import make_folder, write_json
from cxr_ft.model import targets
from cxr_ft.model.assembly import ModelParts
from cxr_ft.progress import track
from cxr_ft.run.ablation import ablate, grid, workers
from cxr_ft.run.evaluation.run_datasets import build_datasets
from cxr_ft.run.record import results, saved_model
from cxr_ft.score.metrics import registry
from cxr_ft.score.statistics import pairs

RANKS = (1, 2, 4, 8, 16, 32, 64)
#: Target lists with which the proposal is compared.
RIVALS = {"q,v": ("q", "v"), "all": ("all",)}
_BATCH = 16


class Candidate(NamedTuple):
    """A module: full name, target word, sum of its two widths, squared singular values of its gradient (descending)."""

    name: str
    item: str
    width: int
    energy: NDArray[np.float64]


class Proposal(NamedTuple):
    """Targets, their rank, the adapter's parameters, and their share of all candidates' energy, in [0, 1]."""

    targets: tuple[str, ...]
    rank: int
    parameters: int
    share: float


def run(
    raw: Mapping[str, object],
    budget: int,
    seeds: Sequence[int],
    out: Path,
    execute: workers.Execute = workers.run_sequential,
) -> list[str]:
    """Propose, train the proposal and its rivals, compare them on test; also written to `out/suggest.json`.

    Args:
        raw: what all runs share, as `grid.cells` takes it; `tuning` may hold lora's own options.
        budget: parameters of the adapter.

    Returns:
        Sentences to print.

    Raises:
        UsageError: for a task that gives no scores, or a budget below the smallest module's.
    """
    if config.resolve(raw).head.name == "report":
        raise UsageError("--suggest compares by AUROC, which needs a task that classifies; use --task classify or both")
    options = {key: value for key, value in config.mapping(raw, "tuning").items() if key not in ("targets", "rank")}
    lora = config.merge({k: v for k, v in raw.items() if k != "tuning"}, {"tuning": {**options, "name": "lora"}})
    # Refuses wrong options of lora before the probe is trained, which takes a whole run.
    config.resolve(lora, "--suggest")
    make_folder(out)
    modules = candidates(_probe(raw, seeds[0], out, execute))
    proposal = propose(modules, budget)
    cells, left_out = _cells(lora, proposal, seeds)
    done = ablate.run({name: cell for named in cells.values() for name, cell in named.items()}, out, execute=execute)
    # A comparison of fewer seeds than were requested would look like the one that was.
    if failed := [result for result in done if result.status != "success"]:
        raise UsageError(f"{out}: {failed[0].variant}, seed {failed[0].seed} failed ({failed[0].error}); run it again")
    sentences = [_proposal_sentence(proposal, budget), *left_out]
    rivals = {name: _compare(out, cells["proposal"], cells[name]) for name in cells if name != "proposal"}
    sentences += [_comparison_sentence(name, pair) for name, pair in rivals.items()]
    ranking = sorted(modules, key=lambda m: -m.energy.sum() / m.width)
    metric = registry.primary("scores")
    write_json(
        out / "suggest.json",
        {
            "budget": budget,
            "proposal": proposal._asdict(),
            "runs": {name: list(named) for name, named in cells.items()},
            "differences": {n: {f"macro_{metric.name}": p.gap, "interval": p.interval} for n, p in rivals.items()},
            "modules": [{"target": m.item, "energy_a_parameter": float(m.energy.sum() / m.width)} for m in ranking],
            "sentences": sentences,
        },
    )
    return sentences


def propose(modules: Sequence[Candidate], budget: int) -> Proposal:
    """Return the rank and the modules whose gradients have most energy within `budget` parameters.

    Raises:
        UsageError: where no module fits.
    """
    best: tuple[float, int, list[Candidate]] | None = None
    for rank in RANKS:
        left, taken = budget, []
        # Greedy: a module that is too large for what is left is passed over, and smaller ones may still fit.
        for module in sorted(modules, key=lambda m: -m.energy[:rank].sum() / m.width):
            if rank * module.width <= left:
                taken.append(module)
                left -= rank * module.width
        covered = sum(float(module.energy[:rank].sum()) for module in taken)
        if taken and (best is None or covered > best[0]):
            best = covered, rank, taken
    if best is None:
        smallest = min(module.width for module in modules)
        raise UsageError(f"--budget {budget}: the smallest module takes {smallest:,} parameters at rank 1")
    covered, rank, taken = best
    total = sum(float(module.energy.sum()) for module in modules)
    names = {module.name for module in taken}
    items = tuple(module.item for module in modules if module.name in names)  # in the model's order
    return Proposal(items, rank, rank * sum(module.width for module in taken), covered / total if total else 0.0)


def candidates(probe: Path) -> list[Candidate]:
    """Return the candidates of a run's base with their gradients' energy, at that run's head, over all of train."""
    parts, settings, _ = saved_model.load(probe)
    model = parts.model
    splits = manifest.read(Path(settings.data.splits))
    rows = build_datasets(settings, splits, parts.base.image_size)["train"]
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    items = _items(parts)
    # Gradients of the candidates alone: those of embeddings and norms would take memory and are not read.
    model.requires_grad_(False)
    weights: dict[str, torch.Tensor] = {name: weight_of(model, name) for name in items}
    for weight in weights.values():
        weight.requires_grad_(True)
    _gradients(parts, rows)
    return [
        Candidate(name, items[name], sum(w.shape), _energy(w.grad)) for name, w in weights.items() if w.grad is not None
    ]


def _items(parts: ModelParts) -> dict[str, str]:
    """Return the matrices that `all` means: full name -> the narrowest target that means it."""
    roles, family, model = parts.base.targets, parts.base.family, parts.model
    names = targets.resolve(("all",), [name for name, _ in model.named_modules()], roles, family)
    matrices = [name for name in names if weight_of(model, name).ndim == 2]
    return {name: targets.narrowest(name, roles) for name in matrices}


def weight_of(model: torch.nn.Module, name: str) -> torch.Tensor:
    """Return the weight of the module `name`; an empty tensor [0] where it has none, as a container of others."""
    weight = model.get_submodule(name).weight
    return weight if isinstance(weight, torch.Tensor) else torch.empty(0)


def _gradients(parts: ModelParts, rows: split_dataset.SplitDataset) -> None:
    loader = split_dataset.loader(rows, parts.head.collate, _BATCH)
    device = next(parts.model.parameters()).device
    parts.model.eval()  # no dropout: the gradient of the loss itself
    for batch in track(loader, "gradients", len(loader)):
        loss, _ = parts.head.loss(parts.model, {key: value.to(device) for key, value in batch.items()})
        # Summed over batches without a step between them: `.grad` becomes the gradient of the whole training loss.
        loss.backward()  # type: ignore[no-untyped-call]


def _energy(gradient: torch.Tensor) -> NDArray[np.float64]:
    values: NDArray[np.float64] = torch.linalg.svdvals(gradient.double()).square().cpu().numpy()
    return values


def _probe(raw: Mapping[str, object], seed: int, out: Path, execute: workers.Execute) -> Path:
    """Train the head alone on the frozen base; return the run's folder."""
    frozen = {"tuning": {"name": "last_layers", "layers": 0}, "train": {"seed": seed}}
    cell = config.resolve(config.merge({k: v for k, v in raw.items() if k != "tuning"}, frozen))
    execute({"probe": cell}, out)
    if (result := results.read(out / "probe")).status not in ("trained", "success"):
        raise UsageError(f"{out / 'probe'} failed ({result.error}); run it again")
    return out / "probe"


def _cells(
    lora: Mapping[str, object], proposal: Proposal, seeds: Sequence[int]
) -> tuple[dict[str, dict[str, config.RunConfig]], list[str]]:
    """Return the runs of the proposal and of each rival of equal size, and a sentence for each rival left out."""
    shape = {"targets": [list(proposal.targets)], "rank": [proposal.rank]}
    named = grid.cells(lora, {"method": ["lora"], "seeds": list(seeds), **shape})
    out = {"proposal": {f"proposal-s{cell.train.seed}": cell for cell in named.values()}}
    left_out = []
    for name, items in RIVALS.items():
        try:
            out[name] = grid.cells(
                lora,
                {"method": ["lora"], "targets": [list(items)], "match": proposal.parameters, "seeds": list(seeds)},
            )
        except UsageError as error:
            left_out.append(f"{name} was not compared: no rank has about as many parameters ({error})")
    return out, left_out


def _compare(out: Path, proposal: Mapping[str, config.RunConfig], rival: Mapping[str, config.RunConfig]) -> pairs.Pair:
    """Return the difference in the primary metric on test, proposal less rival, over subjects and seeds."""
    first, second = ([_test(out / name) for name in cells] for cells in (proposal, rival))
    subjects, truth, _ = first[0]
    scores = [np.stack([score for _, _, score in runs]) for runs in (first, second)]
    # Paired by subject and over all seeds, as on the page of a comparison.
    metric = registry.primary("scores")
    # The function itself: an AUROC has a test of its own, which a method of the metric would hide.
    return pairs.compare(truth, scores[0], scores[1], subjects, metric.statistic or metric.over_rows)


def _test(run: Path) -> tuple[NDArray[np.object_], NDArray[np.float64], NDArray[np.float64]]:
    """Return subjects [N], truth [N, L], scores [N, L] on test, rows in the same order for all runs on the splits."""
    table = results.read_predictions(run)
    table = table[(table["split"] == "test") & table["label"].notna()]
    # `unstack` sorts by the ids, so that all runs have their rows in one order.
    wide = table.set_index(["subject_id", "study_id", "dicom_id", "label"])[["truth", "score"]].unstack("label")
    subjects = wide.index.get_level_values("subject_id").to_numpy()
    return subjects, wide["truth"].to_numpy(float), wide["score"].to_numpy(float)


def _proposal_sentence(proposal: Proposal, budget: int) -> str:
    return (
        f"proposal: --targets {','.join(proposal.targets)} --rank {proposal.rank}: {proposal.parameters:,} of "
        f"{budget:,} parameters, with {100 * proposal.share:.0f} % of the gradient's energy"
    )


def _comparison_sentence(rival: str, pair: pairs.Pair) -> str:
    difference = f"proposal less {rival} with as many parameters: {registry.primary('scores').title} {pair.gap:+.3f}"
    if pair.interval is None:
        return f"{difference}, without an interval ({pair.reason})"
    low, high = pair.interval
    conclusion = "better" if low > 0 else "worse" if high < 0 else "no significant difference"
    return f"{difference} ({low:+.3f} to {high:+.3f}, over {pair.covers}): {conclusion}"
