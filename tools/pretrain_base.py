"""Pretrain the shipped base `git-phantom-tiny` on phantoms, and probe it.

    python tools/pretrain_base.py            # films, training, probe; writes the folder with card and log
    python tools/pretrain_base.py --probe    # the linear probe alone, of what is shipped

The base learns captions and, through heads that are thrown away, dense maps and geometry: captions alone would take
many times as long. `_pretrain_films.py` makes what it is shown; what comes near a label stands in the model's card.
"""

import argparse
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from _pretrain_films import FAINT, FIRST_SEED, GEOMETRY, GRID, MAPS, NAMED, PROBE_SEED, SHOWN, WORDS, Films, labelled
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.files import write_json, write_text
from cxr_ft.model import assembly
from cxr_ft.model.bases import git
from cxr_ft.progress import bar
from cxr_ft.score.statistics.intervals import auroc

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START, NAME = "git-tiny-random", "git-phantom-tiny"
LONGEST = 96
COARSE = 8
LOG_EVERY = 100


CARD = """# {name}

A GIT (Wang et al., arXiv 2205.14100) of 3.5 million parameters for 128 pixel chest radiographs: 4 vision and 3 text
blocks of width 192, {start}'s vocabulary, fp16 weights. For demonstrations, tests and method comparisons on synthetic
films. It has never seen a patient, and must not be used on one.

## What it has seen

Synthetic frontal films alone (`cxr_ft.data.phantom`, subjects of seed {seed}; the demo's archives have seed 0) in
another look than the demo's: one window and gamma for all, poses vary less, no collimation, another marker.

* Captions, half of them: view, marker, size on the plate, turn; and plain words for the signs below ("there is",
  "possible" below a severity of {faint}, "no" for half of the absent ones), in any order.
* Captions, the other half: the same said of five signs by their labels' names: {named}.
* Maps, by a head that is thrown away: {maps}; 32 x 32 cells.
* Geometry, by a head that is thrown away: {geometry}.

So five of the 14 labels were named to it, with what was drawn and not what a reader would say; the other nine never
were. How near the targets come to each:

| label | its words in captions | in the maps |
|---|---|---|
{rows}

## How it was made

`python tools/pretrain_base.py`: {settings}; {minutes} minutes of training. Last mean losses: {last}; all in `log.json`.

Linear probe (logistic regression on the frozen state, 1500 films of the demo's look, seed {probe_seed}, a third of the
subjects held out), macro AUROC over the 14 labels: {probes}.
"""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the weights, besides the phantom's own code.

    Args:
        vision_epochs: those of all_epochs that come first, with the vision tower alone on the maps: they cost little.
    """

    films: int = 16_000
    vision_epochs: int = 3
    all_epochs: int = 6
    batch_size: int = 32
    lr: float = 1e-3
    seed: int = 0
    bf16: bool = True


class Pretraining(nn.Module):
    """The model with its throwaway heads."""

    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.lm = lm
        vision = lm.config.vision_config
        self.cells = GRID * vision.patch_size // vision.image_size
        self.to_maps = nn.Linear(vision.hidden_size, len(MAPS) * self.cells**2)
        self.to_summary = nn.Linear(lm.config.hidden_size, len(MAPS) * COARSE**2 + len(GEOMETRY))

    def shown(self, seen: Tensor, maps: Tensor) -> Tensor:
        """Loss of the maps [B, M, GRID, GRID] from the vision tower's tokens [B, 1 + patches, D]."""
        cells, side = self.cells, GRID // self.cells
        split = maps.view(len(maps), len(MAPS), side, cells, side, cells)
        wanted = split.permute(0, 2, 4, 1, 3, 5).reshape(len(maps), side * side, -1)
        return F.mse_loss(self.to_maps(seen[:, 1:]).float(), wanted)

    def forward(self, pixels: Tensor, ids: Tensor | None, maps: Tensor, geometry: Tensor) -> dict[str, Tensor]:
        """The losses by name; without `ids` those of the vision tower alone.

        pixels [B, 3, S, S]; ids [B, T], 0 is padding; maps [B, M, GRID, GRID]; geometry [B, G].
        """
        if ids is None:
            return {"maps": self.shown(self.lm.git.image_encoder(pixels).last_hidden_state, maps)}
        seen: list[Tensor] = []
        hook = self.lm.git.image_encoder.register_forward_hook(lambda *call: seen.append(call[2].last_hidden_state))
        given, wanted = ids[:, :-1], ids[:, 1:]
        states = self.lm.git(input_ids=given, attention_mask=(given > 0).long(), pixel_values=pixels)[0]
        hook.remove()
        states = states[:, -given.shape[1] :]  # [B, T - 1, D]: the image's positions come first
        counts = wanted > 0
        summary = torch.cat([F.adaptive_avg_pool2d(maps, COARSE).flatten(1), 0.5 * geometry], dim=1)
        return {
            "maps": self.shown(seen[0], maps),
            "words": F.cross_entropy(self.lm.output(states[counts]).float(), wanted[counts]),
            "summary": F.mse_loss(self.to_summary(states[:, 0]).float(), summary),
        }


def pretrain(base: git.Git, films: Films, recipe: Recipe) -> list[dict[str, float]]:
    """Train `base.lm` in place; returns the log: mean losses of each LOG_EVERY steps."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    ids = _tokens(base.tokenizer, films.captions)
    # In evaluation mode: dropout slows a model that sees each film so few times.
    model = Pretraining(base.lm).eval()
    spread = torch.from_numpy(films.maps(np.arange(min(256, len(films))))).std(dim=(0, 2, 3)).view(1, -1, 1, 1)
    optimizer = torch.optim.AdamW(_groups(model), fused=True)
    first, steps = (epochs * (len(films) // recipe.batch_size) for epochs in (recipe.vision_epochs, recipe.all_epochs))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: recipe.lr * _factor(step, first, steps))
    log = _Log()
    with bar("pretraining", steps) as progress:
        for step, rows in enumerate(_batches(len(films), recipe, rng)):
            words = ids[rows]
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
                losses = model(
                    base.pixel_values(films.pixels(rows)),
                    words[:, : int((words > 0).sum(1).max())] if step >= first else None,
                    torch.from_numpy(films.maps(rows)) / spread,
                    torch.from_numpy(films.geometry(rows)),
                )
            torch.autograd.backward(list(losses.values()))
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            log.add({name: loss.item() for name, loss in losses.items()}, last=step + 1 in (first, steps))
            progress.advance(note=" ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items()))
    return log.rows


class _Log:
    """Mean losses of each LOG_EVERY steps."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.steps, self.held, self.clock = 0, list[dict[str, float]](), time.perf_counter()

    def add(self, losses: dict[str, float], last: bool) -> None:
        self.steps += 1
        self.held.append(losses)
        if last or len(self.held) == LOG_EVERY:
            means = {name: round(float(np.mean([row[name] for row in self.held])), 4) for name in losses}
            self.rows.append({"step": self.steps, "seconds": round(time.perf_counter() - self.clock, 1), **means})
            self.held = []


def _batches(count: int, recipe: Recipe, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    whole = count - count % recipe.batch_size
    for _ in range(recipe.all_epochs):
        yield from rng.permutation(count)[:whole].reshape(-1, recipe.batch_size)


def _groups(model: nn.Module) -> list[dict[str, object]]:
    # The schedule gives the learning rate itself, so the optimiser's own is 1.
    parts = {0.05: [p for p in model.parameters() if p.ndim > 1], 0.0: [p for p in model.parameters() if p.ndim <= 1]}
    return [{"params": params, "weight_decay": decay, "lr": 1.0} for decay, params in parts.items()]


def _factor(step: int, first: int, steps: int) -> float:
    """A rise, a plateau while the vision tower is alone, then half a cosine."""
    rise = max(1, steps // 20)
    if step < max(rise, first):
        return min(1.0, (step + 1) / rise)
    return 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, steps - first)))


def _tokens(tokenizer: "PreTrainedTokenizerBase", captions: list[str]) -> Tensor:
    texts = tokenizer(captions, add_special_tokens=False).input_ids
    rows = [torch.tensor([tokenizer.cls_token_id, *t[: LONGEST - 2], tokenizer.sep_token_id]) for t in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def probe(base: git.Git, films: int = 1500) -> float:
    """Macro AUROC over the 14 labels of logistic regressions on the frozen pooled state, on films of the demo's look.

    The films are of other seeds than pretraining's and the demo's; the last third of the subjects is for testing.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    pixels, truth, subject = labelled(films)
    states = _pooled(base, pixels)
    train = subject < np.quantile(subject, 2 / 3)
    states = StandardScaler().fit(states[train]).transform(states)
    scores = []
    for i in range(len(CHEXPERT_14)):
        fit, held = (side & ~np.isnan(truth[:, i]) for side in (train, ~train))
        model = LogisticRegression(C=0.03, max_iter=2000).fit(states[fit], truth[fit, i])
        scores.append(auroc(truth[held, i], model.decision_function(states[held])))
    return float(np.mean(scores))


def _pooled(base: git.Git, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    base.lm.eval()
    with torch.no_grad():
        batches = [
            base.pooled(base.encoder(), {"pixel_values": base.pixel_values(part)})
            for part in np.array_split(pixels, max(1, len(pixels) // 64))
        ]
    states: NDArray[np.float32] = torch.cat(batches).numpy()
    return states


def card(recipe: Recipe, log: list[dict[str, float]], probes: dict[str, float]) -> str:
    """The model card."""
    words = {label: f'"{present}"' + ", and by name" * (label in NAMED) for label, (present, _) in WORDS.items()}
    rows = "\n".join(f"| {label} | {words.get(label, 'never')} | {SHOWN[label]} |" for label in CHEXPERT_14)
    settings = ", ".join(f"{name} {value}" for name, value in asdict(recipe).items())
    last = log[-1]
    return CARD.format(
        name=NAME,
        faint=FAINT,
        named=", ".join(NAMED),
        start=START,
        rows=rows,
        settings=settings,
        maps=", ".join(MAPS),
        geometry=", ".join(GEOMETRY),
        minutes=round(last["seconds"] / 60),
        last=", ".join(f"{name} {last[name]:.3f}" for name in ("words", "maps", "summary")),
        probes=", ".join(f"{name} {value:.3f}" for name, value in probes.items()),
        seed=FIRST_SEED + recipe.seed,
        probe_seed=PROBE_SEED,
    )


def save(base: git.Git, out: Path, recipe: Recipe, log: list[dict[str, float]], probes: dict[str, float]) -> None:
    """Write the folder, whole or not at all: fp16 weights, processor, tokenizer, card, log."""
    delattr(base.lm.config, assembly.SEED_KEY)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as name:
        folder = Path(name) / out.name
        base.save(folder, base.lm.half())
        write_json(folder / "log.json", {"recipe": asdict(recipe), "probe_macro_auroc": probes, "log": log})
        write_text(folder / "README.md", card(recipe, log, probes))
        shutil.rmtree(out, ignore_errors=True)
        folder.rename(out)


def main() -> None:
    """Pretrain, or probe what is shipped."""
    parser = argparse.ArgumentParser(description="Pretrain the shipped base on phantoms, or probe it.")
    for name, default in asdict(Recipe()).items():
        if name != "bf16":
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--fp32", action="store_true", help="no bfloat16: for machines on which it is slow")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw films")
    parser.add_argument("--out", type=Path, default=assembly.SHIPPED / NAME)
    parser.add_argument("--probe", action="store_true", help="only probe --out and the random base")
    args = parser.parse_args()
    assembly.silence_libraries()
    probes = {START: round(probe(git.load(START)), 4)}
    if args.probe:
        probes[args.out.name] = round(probe(git.load(str(args.out))), 4)
        print(probes)
        return
    asked = {name: getattr(args, name) for name in asdict(Recipe()) if name != "bf16"}
    recipe = Recipe(**asked, bf16=not args.fp32)
    base = git.load(START)
    log = pretrain(base, Films(recipe.films, FIRST_SEED + recipe.seed, args.workers), recipe)
    probes[args.out.name] = round(probe(base), 4)
    save(base, args.out, recipe, log, probes)
    print(probes, f"{sum(p.stat().st_size for p in args.out.iterdir())} bytes in {args.out}")


if __name__ == "__main__":
    main()
