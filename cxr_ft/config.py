"""Read a run's configuration, data + model + head + tuning + train, from defaults < YAML < flags.

The options of a plug-in are a frozen dataclass in the plug-in's own file. Unknown keys are refused with the known ones.
A configuration is data: it is read by `safe_yaml`, never executed, and can be run again later.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cxr_ft import plugins, safe_yaml
from cxr_ft.errors import UsageError, unknown
from cxr_ft.json_values import JsonObject

T = TypeVar("T")
#: A value of nested mappings, `Json` or `object`: a section of a JSON object is a JSON object.
V = TypeVar("V")
#: The base that is trained where none is named.
DEFAULT_MODEL = "git-phantom-tiny"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Options of the data.

    Args:
        splits: a folder that cxr-split wrote.
        root: the folder of the images, if not the one in the manifest.
        augment: "mild": in each epoch training images are slightly rotated, shifted, scaled and changed in exposure.
        flip: half of the training images are mirrored; the words left and right of reports are not changed.
        uncertain: the training target of an uncertain label (-1), from 0 to 1 (a soft label); None: as the splits say,
            which always holds for val and test.
        curriculum: the number of first epochs in which reports are learnt from the shortest to the longest.
        image_size: side in pixels; the base's positions are interpolated. None: the base's own.
        views: images read of each study, the first frontal and the first lateral one before others; for splits by study
            (--unit study). A study with fewer is read with those it has.
        context: text columns that the model reads before it writes the report (indication, history), in this order.
    """

    splits: str = ""
    root: str | None = None
    augment: str = "none"
    flip: bool = False
    uncertain: float | None = None
    curriculum: int = 0
    image_size: int | None = None
    views: int = 1
    context: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.augment not in ("none", "mild"):
            raise unknown("augmentation", self.augment, ("none", "mild"), "data.augment")
        if self.uncertain is not None and not 0 <= self.uncertain <= 1:
            raise UsageError(f"data.uncertain: {self.uncertain}; give a number from 0 to 1")
        if self.image_size is not None and self.image_size < 1:
            raise UsageError(f"data.image_size: {self.image_size} pixels; give 1 or more")
        if self.curriculum < 0:
            raise UsageError(f"data.curriculum: {self.curriculum} epochs; give 0 or more")
        if self.views < 1:
            raise UsageError(f"data.views: {self.views} images a study; give 1 or more")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Options of training, the same for every method.

    Args:
        seed: of the first weights of head and adapter, the order of rows, and dropout.
        epochs: passes over train.
        batch_size: rows a step, whatever the number of processes.
        micro_batch: rows at a time in each process, whose gradients add up to the step's; 0: as many as fit in memory.
        head_lr: peak learning rate of the modules that the head adds: they start at random under every method, and the
            small rate that full fine-tuning needs for the base would be too small for them.
        weight_decay: of AdamW, on matrices.
        warmup: share of the steps over which the learning rate rises; it then falls as a cosine to zero.
        clip: largest norm of the gradient.
        precision: "no" (fp32), "bf16" or "fp16".
        gradient_checkpointing: recompute activations in the backward pass: less memory, more time.
        store_features: "auto": the output of frozen layers on the images is computed once and kept in the cache folder,
            where that saves work; "never": it is computed in each step, with the same numbers.
    """

    seed: int = 0
    epochs: int = 5
    batch_size: int = 16
    micro_batch: int = 0
    head_lr: float = 3e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    precision: str = "no"
    gradient_checkpointing: bool = False
    store_features: str = "auto"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UsageError(f"train.epochs: {self.epochs}; give 1 or more")
        if self.batch_size < 1:
            raise UsageError(f"train.batch_size: {self.batch_size}; give 1 or more")
        if self.micro_batch < 0:
            raise UsageError(f"train.micro_batch: {self.micro_batch}; give rows at a time, or 0 for all that fit")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"train.seed: {self.seed}; give a whole number from 0 to {2**32 - 1}")
        if self.head_lr <= 0:
            raise UsageError(f"train.head_lr: {self.head_lr}; give a number above 0")
        if self.weight_decay < 0:
            raise UsageError(f"train.weight_decay: {self.weight_decay}; give 0 or more")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"train.warmup: {self.warmup}; give a share from 0 to below 1")
        if self.clip <= 0:
            raise UsageError(f"train.clip: {self.clip}; give a number above 0")
        if self.precision not in ("no", "bf16", "fp16"):
            raise unknown("precision", self.precision, ("no", "bf16", "fp16"), "train.precision")
        if self.store_features not in ("auto", "never"):
            raise unknown("choice", self.store_features, ("auto", "never"), "train.store_features")


@dataclass(frozen=True)
class PluginConfig:
    """The name of a plug-in and its options (the plug-in's own `Config`, whose class only the plug-in knows)."""

    name: str
    options: Any

    def option(self, name: str) -> object:
        """Return the value of an option; None where the plug-in does not declare it."""
        # Methods without targets declare none, and callers need not know which these are.
        declared = {field.name for field in dataclasses.fields(self.options)}
        return getattr(self.options, name) if name in declared else None

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the target modules of a method; empty where it has none, or trains everything."""
        declared = self.option("targets")
        return tuple(map(str, declared)) if isinstance(declared, Sequence) else ()

    def to_json(self) -> dict[str, object]:
        """Return name and options in one dict."""
        return {"name": self.name, **dataclasses.asdict(self.options)}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run, resolved."""

    data: DataConfig
    model: str
    head: PluginConfig
    tuning: PluginConfig
    train: TrainConfig = field(default_factory=TrainConfig)

    def to_json(self) -> JsonObject:
        """Return the form of config.yaml and result.json: plain dicts, lists and numbers."""
        raw = {
            "data": dataclasses.asdict(self.data),
            "model": self.model,
            "head": self.head.to_json(),
            "tuning": self.tuning.to_json(),
            "train": dataclasses.asdict(self.train),
        }
        # Through JSON, so that a tuple is a list: the fingerprint of a run and of its config.yaml must agree.
        plain: JsonObject = json.loads(json.dumps(raw))
        return plain

    def fingerprint(self, hashes: Mapping[str, str], base: str | None = None) -> str:
        """Return the SHA-256 of what decides the numbers: the configuration without paths, splits, weights of the base.

        Args:
            hashes: of the splits' files.
            base: hash of the base's weights, which stands in place of the base's name; None: the name alone.
        """
        whole = self.to_json()
        data, train = mapping(whole, "data"), mapping(whole, "train")
        raw = {
            **whole,
            # Where the files lie decides no number, what is in them does: their hashes take the place of the paths.
            "model": base or self.model,
            "data": {**hashes, **{key: data[key] for key in data.keys() - {"splits", "root"}}},
            "train": {key: train[key] for key in train.keys() - {"store_features"}},  # it changes time alone
        }
        return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()


def read_yaml(path: Path) -> dict[str, object]:
    """Return the mapping of a configuration file: YAML, or a result.json, of which `config` is taken.

    Raises:
        UsageError: where it cannot be read or is no mapping.
    """
    try:
        raw = safe_yaml.load(path.read_text(encoding="utf-8"), f"configuration {path}")
    except FileNotFoundError:
        raise UsageError(f"configuration {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"configuration {path} cannot be read: {error}") from None
    # YAML contains JSON, so that a run's result.json is read by the same parser.
    if isinstance(raw, dict) and "config_hash" in raw:
        raw = raw.get("config")
    if not isinstance(raw, dict):
        raise UsageError(f"configuration {path} is not a mapping; its keys are data, model, head, tuning, train")
    return raw


def merge(*layers: Mapping[str, object]) -> dict[str, object]:
    """Return nested mappings merged; of two values for one key the last wins."""
    out: dict[str, object] = {}
    for layer in layers:
        for key, value in layer.items():
            before = out.get(key)
            out[key] = merge(before, value) if isinstance(before, dict) and isinstance(value, Mapping) else value
    return out


def assignment(text: str) -> dict[str, object]:
    """Return `train.epochs=3` as {"train": {"epochs": 3}}; the value is YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text}: write SECTION.KEY=VALUE, as train.epochs=3")
    # By the parser of the files, so that `--set` and a file read one text as one value.
    parsed = safe_yaml.load(value, f"--set {text}: the value")
    return nest(key.strip().split("."), parsed)


def nest(path: Sequence[str], value: object) -> dict[str, object]:
    """Return ("train", "epochs") and 3 as {"train": {"epochs": 3}}."""
    out: dict[str, object] = {path[-1]: value}
    for section in reversed(path[:-1]):
        out = {section: out}
    return out


def resolve(raw: Mapping[str, object], where: str = "the configuration") -> RunConfig:
    """Return the RunConfig of nested mappings; a missing option takes its default.

    Raises:
        UsageError: for an unknown key or name, or a value of the wrong type or range.
    """
    _refuse_unknown(raw, ("data", "model", "head", "tuning", "train"), where)
    model = raw.get("model", DEFAULT_MODEL)
    if not isinstance(model, str) or not model:
        raise UsageError(f"{where}: model must be a name or a folder, not {model!r}")
    return RunConfig(
        data=options(DataConfig, mapping(raw, "data", where), f"{where}, data"),
        model=model,
        head=_plugin_config(plugins.HEADS, mapping(raw, "head", where), "classify", f"{where}, head"),
        tuning=_plugin_config(plugins.TUNING, mapping(raw, "tuning", where), "lora", f"{where}, tuning"),
        train=options(TrainConfig, mapping(raw, "train", where), f"{where}, train"),
    )


def options(owner: type[T], raw: Mapping[str, object], where: str) -> T:
    """Return an instance of the dataclass `owner` from a mapping, each value checked against its field's type.

    Raises:
        UsageError: for an unknown key or a value of the wrong type.
    """
    types_of = typing.get_type_hints(owner)
    _refuse_unknown(raw, [f.name for f in dataclasses.fields(owner)], where)  # type: ignore[arg-type]
    return owner(**{key: typed(value, types_of[key], f"{where}.{key}") for key, value in raw.items()})


def typed(value: object, kind: Any, where: str) -> object:
    """Return `value` as `kind`: int, float, bool, str, a tuple of str, or the union of one of these and None.

    Raises:
        UsageError: for a value of another type.
    """
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    # A command line has no lists: `q,v` is the same as [q, v] in a file.
    if typing.get_origin(kind) is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, Sequence) or not all(isinstance(item, str) for item in items):
            raise UsageError(f"{where}: {value!r} is not a list of names")
        return tuple(item.strip() for item in items)
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):  # a text that is no number is refused below
            value = float(value)  # YAML 1.1 reads 1e-3 as text
    # No YAML 1.2 truth value, and yet clear where nothing else can be meant.
    if kind is bool and isinstance(value, str):
        value = {"yes": True, "on": True, "no": False, "off": False}.get(value.lower(), value)
    # bool is a subclass of int, but `epochs: true` is a mistake.
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise UsageError(f"{where}: {value!r} is not of type {kind.__name__}")
    # YAML knows .nan and .inf, which no option means.
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where}: {value} is not a finite number")
    return value


def _plugin_config(package: str, raw: Mapping[str, object], default: str, where: str) -> PluginConfig:
    name = raw.get("name", default)
    module = plugins.load(package, str(name))
    rest = {key: value for key, value in raw.items() if key != "name"}
    chosen = options(module.Config, rest, f"{where} ({name})")
    # Only here are the method's options and whether it trains at all known together.
    if package == plugins.TUNING and module.TRAINS and chosen.lr <= 0:
        raise UsageError(f"{where} ({name}).lr: {chosen.lr}; a learning rate is above 0")
    return PluginConfig(str(name), chosen)


def mapping(raw: Mapping[str, V], key: str, where: str = "the configuration") -> Mapping[str, V]:
    """Return a section of a raw configuration, empty where it is missing.

    Raises:
        UsageError: where it is not a mapping.
    """
    value: object = raw.get(key) or {}
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: {key} must be a mapping, not {value!r}")
    return value


def _refuse_unknown(raw: Mapping[str, object], known: Sequence[str], where: str) -> None:
    for key in raw:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UsageError(f"{where}: unknown key {key!r}{hint}; known: {', '.join(known) or 'none'}")
