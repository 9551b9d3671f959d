"""What `pretrain_base.py` learns from: phantoms of other seeds and another look, dense maps of them, and captions.

Nothing here is a label. What comes close to one stands in `SEEN`, label by label, and so in the model's card.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_ft.data.labels import CHEXPERT_14
from cxr_ft.data.phantom import cases, findings, frontal
from cxr_ft.data.phantom.anatomy import LATERALITIES, Body, Thorax
from cxr_ft.data.phantom.canvas import Canvas, Image, Points
from cxr_ft.data.phantom.cases import Picture
from cxr_ft.data.phantom.film import Exposure, expose
from cxr_ft.data.phantom.findings import Sign
from cxr_ft.data.phantom.random_streams import stream
from cxr_ft.data.phantom.render import render
from cxr_ft.files import atomic, cache_folder, write_json
from cxr_ft.progress import track

SIZE = 128
#: Side of the dense maps: 4 x 4 cells a patch of the vision tower.
GRID = 32
#: The demo's archives count from seed 0.
FIRST_SEED, PROBE_SEED = 1000, 900
MAPS = (
    "lung",
    "air left in the lung",
    "heart and great vessels",
    "below the diaphragm",
    "bone",
    "lung vessels",
    "dense",
)
GEOMETRY = ("scale", "angle", "x", "y", "turn", "right dome", "left dome", "spine", "width", "length")
_ROW = SIZE * SIZE + len(MAPS) * GRID * GRID + len(GEOMETRY)

#: Plain words for some signs, none of them a label's name: (present, absent).
WORDS = {
    "Lung Lesion": ("a rounded spot in the {side} {zone} lung", "rounded spot"),
    "Edema": ("central haze", "central haze"),
    "Consolidation": ("a dense patch in the {side} {zone} lung", "dense patch"),
    "Atelectasis": ("a band at the {side} base", "band at the base"),
    "Pneumothorax": ("free air on the {side}", "free air"),
    "Pleural Effusion": ("loss of the {side} angle", "loss of the angle"),
    "Pleural Other": ("a thick margin on the {side}", "thick margin"),
    "Support Devices": ("a placed line", "placed line"),
}
#: The labels that half of the captions name, as a mini-report does. The others are never named.
NAMED = ("Edema", "Consolidation", "Atelectasis", "Pleural Effusion", "Support Devices")
#: How near the maps come to each label: for the card.
SHOWN = {
    "No Finding": "as far as a film without any sign has plain maps",
    "Enlarged Cardiomediastinum": "near: the outline of the great vessels",
    "Cardiomegaly": "near: the heart's outline",
    "Lung Opacity": "near: every opacity takes away air, with nothing to tell one kind from another",
    "Lung Lesion": "in part: the larger ones take away air",
    "Edema": "in part: less air, more vessels",
    "Consolidation": "in part: less air",
    "Pneumonia": "in part: less air, as any consolidation",
    "Atelectasis": "in part: less air, a higher dome",
    "Pneumothorax": "in part: no vessels, a fine dense line",
    "Pleural Effusion": "in part: no air in the angle",
    "Pleural Other": "in part: a dense rim",
    "Fracture": "hardly: a step of a rib is finer than the map's cells",
    "Support Devices": "near: the dense map holds them, with other dense things",
}
#: Below this severity a sign is called possible.
FAINT = 0.28
_SAID_ABSENT = 0.5
#: Films without any sign are many; this share of them is kept.
_KEPT = 0.4


@dataclass(frozen=True)
class Film:
    """One film: `pixels` uint8 [SIZE, SIZE], `maps` uint8 [len(MAPS), GRID, GRID], `geometry` uint8."""

    pixels: NDArray[np.uint8]
    maps: NDArray[np.uint8]
    geometry: NDArray[np.uint8]
    caption: str


class Films:
    """`count` films, made on first use and kept as one uint8 array in the user's cache folder."""

    def __init__(self, count: int, seed: int = FIRST_SEED, workers: int = 1) -> None:
        file = cache_folder() / "pretraining" / f"{_key(count, seed)}.npy"
        if not file.with_suffix(".json").exists():
            _make(file, count, seed, workers)
        self._rows: NDArray[np.uint8] = np.load(file, mmap_mode="r")
        self.captions: list[str] = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))

    def __len__(self) -> int:
        return len(self._rows)

    def pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 [B, SIZE, SIZE]."""
        part: NDArray[np.uint8] = self._rows[rows, : SIZE * SIZE].reshape(-1, SIZE, SIZE)
        return part

    def maps(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """[B, len(MAPS), GRID, GRID] in 0..1."""
        part = self._rows[rows, SIZE * SIZE : _ROW - len(GEOMETRY)].astype(np.float32)
        return part.reshape(-1, len(MAPS), GRID, GRID) / np.float32(255)

    def geometry(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """[B, len(GEOMETRY)], about zero mean and unit spread."""
        return (self._rows[rows, _ROW - len(GEOMETRY) :].astype(np.float32) - 128) / np.float32(32)


def _key(count: int, seed: int) -> str:
    """Another one whenever this file or the phantom's code is another."""
    source = hashlib.sha256(Path(__file__).read_bytes())
    for file in sorted(Path(findings.__file__).parent.glob("*.py")):
        source.update(file.read_bytes())
    return f"{count}-{seed}-{source.hexdigest()[:16]}"


def _make(file: Path, count: int, seed: int, workers: int) -> None:
    captions: list[str] = []
    with atomic(file, private=True) as temporary:
        store = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(count, _ROW))
        for film in track(_films(count, seed, workers), "pretraining films", count):
            store[len(captions)] = np.concatenate([film.pixels.ravel(), film.maps.ravel(), film.geometry])
            captions.append(film.caption)
        store.flush()
    write_json(file.with_suffix(".json"), captions)


def _films(count: int, seed: int, workers: int) -> Iterator[Film]:
    made = 0
    with ProcessPoolExecutor(workers) as pool:
        # A subject has one to three studies; those beyond `count` are left.
        for films in pool.map(partial(of_subject, seed), range(count), chunksize=16):
            for film in films:
                if made == count:
                    pool.shutdown(cancel_futures=True)
                    return
                yield film
                made += 1


def of_subject(seed: int, index: int) -> list[Film]:
    """The frontal films of one subject; many of those without a sign are left out."""
    cv2.setNumThreads(1)
    subject = cases.subject(seed, index)
    pairs = [(study, picture) for study in subject.studies for picture in study.pictures if picture.view != "LATERAL"]
    return [
        film(subject.body, study.signs, picture)
        for study, picture in pairs
        if study.signs or stream("kept", *picture.seed).random() < _KEPT
    ]


def film(body: Body, signs: Sequence[Sign], picture: Picture) -> Film:
    """A film of the plain look: steady pose, steady exposure, no collimation; with its maps, geometry and caption."""
    rng = stream("pretraining", *picture.seed)
    portable = picture.view == "AP"
    pose = rng.normal(0, 1, 5)
    canvas = Canvas((SIZE, SIZE), _matrix(pose))
    thorax = Thorax(body, findings.change(signs, portable, 0.4 * pose[4], rng.normal(0, 0.03)))
    chest = frontal.healthy(canvas, thorax, stream("vessels", body.seed), portable)
    for sign in signs:
        findings.draw(chest, sign)
    frontal.add_haze(chest, rng)
    frontal.add_bones(chest, rng)
    letter = str(rng.choice(("L", "R")))
    # One tone for all: that of the demo's films is another for each.
    look = replace(Exposure.sample(rng, portable), low=0.18, high=0.84, gamma=1.0, border=None)
    shown = expose(canvas, chest.attenuation() + _marker(canvas, letter, rng), chest.lung, look)
    return Film(
        pixels=_bytes(shown),
        maps=_maps(chest),
        geometry=np.clip(np.rint(32 * _geometry(thorax, pose)) + 128, 0, 255).astype(np.uint8),
        caption=caption(signs, portable, letter, pose, rng),
    )


@cache
def labelled(count: int) -> tuple[NDArray[np.uint8], Points, NDArray[np.int64]]:
    """For probing, not for learning: `count` frontal films as the demo's archives hold them, of seed PROBE_SEED.

    Returns:
        pixels uint8 [N, SIZE, SIZE]; what the reports state, [N, 14] of 1, 0 and NaN (hedged); subjects' numbers [N].
    """
    films = track(itertools.islice(_of_the_demos_look(), count), "films to probe with", count)
    pixels, truth, subjects = zip(*films, strict=True)
    return np.stack(pixels), np.array(truth), np.array(subjects)


def _of_the_demos_look() -> Iterator[tuple[NDArray[np.uint8], list[float], int]]:
    for index in itertools.count():
        subject = cases.subject(PROBE_SEED, index)
        for study in subject.studies:
            shown, _ = render(subject.body, study.signs, study.pictures[0], SIZE)
            top, left = (shown.shape[0] - SIZE) // 2, (shown.shape[1] - SIZE) // 2
            said = [study.stated.get(label, 0) for label in CHEXPERT_14]
            truth = [float("nan") if value < 0 else float(value) for value in said]
            yield _bytes(shown[top : top + SIZE, left : left + SIZE]), truth, index


def _bytes(image: Image) -> NDArray[np.uint8]:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _matrix(pose: Points) -> Points:
    scale, angle = SIZE / 2 * (1.11 + 0.06 * pose[0]), 0.03 * pose[1]
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = scale * np.array([0.04 * pose[2], 0.02 + 0.05 * pose[3]])
    return np.column_stack([turn, np.full(2, SIZE / 2) + shift])


def _marker(canvas: Canvas, letter: str, rng: np.random.Generator) -> Image:
    image = np.zeros(canvas.shape, np.uint8)
    x = SIZE * (rng.uniform(0.86, 0.92) if letter == "L" else rng.uniform(0.02, 0.08))
    at = (round(x), round(SIZE * rng.uniform(0.09, 0.25)))
    cv2.putText(image, letter, at, cv2.FONT_HERSHEY_DUPLEX, SIZE / 512 * 1.2, 255, 1, cv2.LINE_AA)
    return image.astype(np.float32) * np.float32(2.5 / 255)


def _maps(chest: frontal.Chest) -> NDArray[np.uint8]:
    canvas, thorax = chest.canvas, chest.thorax
    layers = (
        chest.lung,
        chest.lung * chest.open,
        canvas.fill(thorax.silhouette()),
        canvas.fill(*(thorax.below(side) for side in LATERALITIES)),
        chest.bone,
        chest.vessels * np.sqrt(np.maximum(chest.lung * chest.open, 0)),
        3 * chest.dense,
    )
    small = [cv2.resize(layer, (GRID, GRID), interpolation=cv2.INTER_AREA) for layer in layers]
    return _bytes(np.stack(small))


def _geometry(thorax: Thorax, pose: Points) -> Points:
    body = thorax.body
    domes = [float(thorax.diaphragm(side)[:, 1].min()) for side in LATERALITIES]
    shape = [(domes[0] - 0.34) / 0.08, (domes[1] - 0.43) / 0.08, body.curve / 0.012]
    return np.array([*pose, *shape, (body.width - 1) / 0.045, (body.length - 1) / 0.05])


def caption(signs: Sequence[Sign], portable: bool, letter: str, pose: Points, rng: np.random.Generator) -> str:
    """Half of them: technique, marker, pose and plain words for some signs; the other half: some labels by name."""
    by = {sign.label: sign for sign in signs}
    if rng.random() < 0.5:
        parts = [_said(by.get(label), label.lower(), label.lower(), rng) for label in NAMED]
        return " ".join(part for part in parts if part)
    size = "small" if pose[0] < -0.7 else "large" if pose[0] > 0.7 else "fitting"
    turned = "" if abs(pose[4]) < 0.7 else f" turned to the {'right' if pose[4] < 0 else 'left'}."
    start = f"{'portable ap' if portable else 'upright pa'} view, {letter.lower()} marker, {size}.{turned}"
    parts = [start, *(_said(by.get(label), *words, rng) for label, words in WORDS.items())]
    # In any order, so that the start token's state has to know them all.
    rng.shuffle(parts)
    return " ".join(part for part in parts if part)


def _said(sign: Sign | None, present: str, absent: str, rng: np.random.Generator) -> str:
    if sign is None:
        return f"no {absent}." if rng.random() < _SAID_ABSENT else ""
    side = "right and left" if sign.side == "both" else sign.side
    return f"{'possible' if sign.severity < FAINT else 'there is'} {present.format(side=side, zone=sign.zone)}."
