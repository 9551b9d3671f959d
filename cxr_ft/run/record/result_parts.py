"""Type the parts of a run's `result.json`: environment, base, data, plan, cost, history, search of a rate.

Each part is a frozen dataclass. `from_json` ignores keys of other versions and fills what is missing; `to_json` leaves
out what was not recorded, so that a reader can tell "not recorded" from 0.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypedDict

from cxr_ft.data.card import DatasetCard
from cxr_ft.data.manifest import ConfoundJson
from cxr_ft.json_values import Json, JsonObject

#: Metadata of a field that is written as null where it is None: there, null is a statement ("undefined", "no GPU").
_NULL = {"null": True}

#: A part as JSON: each class below names its keys and their types.
PartJson = dict[str, Json]


class SplitMetrics(TypedDict, total=False):
    """The metrics of one split, as the `evaluate` functions of `score.metrics` nest them; a head leaves out some keys.

    Keys of metrics that plug-ins add are not named here: `score.metrics.registry.Metric.value` reads those.
    """

    loss: float
    n: int
    accuracy: float | None
    labels: Mapping[str, JsonObject]
    macro: Mapping[str, float | None]
    micro: Mapping[str, float | None]
    examples: Mapping[str, float | None]
    calibration: JsonObject
    subgroups: JsonObject
    baselines: Mapping[str, JsonObject | None]
    constant_baseline: JsonObject
    probes: JsonObject
    undefined: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class ResultPart(Mapping[str, Any]):
    """A part of a result. New code reads its attributes.

    It is also a mapping over its JSON form (`part["x"]`, `part.get("x")`), for what reads a record by key paths, such
    as the comparison of the conditions of two runs.
    """

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Return the part from its JSON form; a null takes the field's default."""
        values: dict[str, Any] = {}
        for f in dataclasses.fields(cls):
            value, kind = raw.get(f.name), f.metadata.get("part")
            if value is None:
                continue
            if kind is not None and isinstance(value, Mapping) and not isinstance(value, kind):
                value = kind.from_json(value)
            # JSON has lists alone; the parts are frozen and hold tuples.
            values[f.name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)

    def to_json(self) -> PartJson:
        """Return plain dicts, lists and numbers; {} where nothing was recorded."""
        out: PartJson = {}
        recorded = False
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            # A part of defaults alone was never recorded: {} and not zeros, so that "not measured" is not read as 0.
            recorded = recorded or value != default
            if isinstance(value, (ResultPart, DatasetCard)):
                value = value.to_json() or None
            elif isinstance(value, Mapping):
                value = dict(value) or None
            elif isinstance(value, tuple):
                value = list(value)
            if value is not None or "null" in f.metadata:
                out[f.name] = value
        return out if recorded else {}

    def __getitem__(self, key: str) -> Any:
        return self.to_json()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_json())

    def __len__(self) -> int:
        return len(self.to_json())


@dataclass(frozen=True, kw_only=True, eq=False)
class Environment(ResultPart):
    """Versions and machine; no path, user or host.

    Args:
        cxr_ft, python: versions.
        commit: of the checkout, "+changes" where the tree was not clean; empty outside a checkout.
        packages: versions by package.
        system, device: operating system; name of the GPU, or "cpu (...)".
        threads: of torch in each process. processes: that trained together.
        precision: "no" (fp32), "bf16" or "fp16".
    """

    cxr_ft: str | None = None
    commit: str | None = None
    python: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    system: str | None = None
    device: str | None = None
    threads: int | None = None
    processes: int | None = None
    precision: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class BaseRecord(ResultPart):
    """The weights of a run's base, as `cxr_ft.model.base_weights.BaseWeights` explains them.

    Args:
        digest: one hash of all; None in results of older versions, and for a base whose files are not known.
        files: SHA-256 of each file that decides the weights, by name.
        revision: the commit on the hub.
        drawn: how random weights are drawn.
        instead_of: digests of other weights that --other-base replaced in this run, in order.
    """

    digest: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    revision: str | None = None
    drawn: str | None = None
    instead_of: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.files, Mapping):
            raise TypeError(f"base.files is {type(self.files).__name__}, no mapping")


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSummary(ResultPart):
    """The splits of a run.

    Args:
        splits: their folder. sha256: of their files, by name.
        rows, subjects: how many, by split.
        card: of the data set.
        leaks: values that two splits share, by kind; None: not recorded.
        confounds: how well each label is predicted without the content of the image; None: not audited.
        notes: sentences of the split compiler.
        cut_texts: train texts that are longer than the head learns to write; None: not counted.
    """

    splits: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    subjects: Mapping[str, int] = field(default_factory=dict)
    card: DatasetCard | None = field(default=None, metadata={"part": DatasetCard})
    leaks: Mapping[str, int] | None = None
    confounds: tuple[ConfoundJson, ...] | None = None
    notes: tuple[str, ...] = ()
    cut_texts: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ParameterCount(ResultPart):
    """Numbers of parameters; `trainable` = `adapter` (in the adapter or the base) + `head`."""

    trainable: int = 0
    total: int = 0
    adapter: int = 0
    head: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingPlan(ResultPart):
    """The plan of a run's training, known before weights are loaded.

    Args:
        modules: full names of the modules with trained parameters.
        notes: sentences on them.
        parameters: how many.
        image_size: side in pixels; 0 for a base of texts.
        output: of the head, "scores" or "text".
    """

    modules: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    parameters: ParameterCount = field(default_factory=ParameterCount, metadata={"part": ParameterCount})
    image_size: int | None = None
    output: str = "scores"


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryBytes(ResultPart):
    """Bytes by kind, as `cxr_ft.run.cost.memory.KINDS` defines them."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    workspace: int = 0

    @property
    def peak_bytes(self) -> int | None:
        """Return the bytes of all kinds together; None where none were measured."""
        return sum(getattr(self, f.name) for f in dataclasses.fields(self)) or None


@dataclass(frozen=True, kw_only=True, eq=False)
class CudaMemory(ResultPart):
    """Peaks of the CUDA allocator in bytes."""

    allocated: int = 0
    reserved: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class EnergyRecord(ResultPart):
    """Energy of training.

    Args:
        joules: used. busy_percent: mean utilisation of the GPU.
        of: the part of the machine that was measured.
        why_not: the reason where nothing is known.
    """

    joules: float | None = field(default=None, metadata=_NULL)
    busy_percent: float | None = field(default=None, metadata=_NULL)
    of: str | None = field(default=None, metadata=_NULL)
    why_not: str | None = field(default=None, metadata=_NULL)


@dataclass(frozen=True, kw_only=True, eq=False)
class Cost(ResultPart):
    """The cost of a run.

    Args:
        train_seconds, eval_seconds: of the steps, and of the evaluations on val. feature_seconds: to store what frozen
            weights make of the images. test_seconds: of the verification. wall_seconds: of the whole training.
        samples_per_second: rows of train over `train_seconds`.
        memory: at the step's peak. memory_largest: of each kind at its own peak. memory_batches: numbers in the largest
            batch that was counted, as the "first" of a step and as a "further" one.
        flops_per_sample: of forward and backward pass.
        energy: see `EnergyRecord`.
        micro_batch: rows at a time in each process.
        parameters: how many.
        saved_model_bytes: of `model/` on disk.
        cuda_memory: None on CPU.
    """

    train_seconds: float | None = None
    eval_seconds: float | None = None
    memory: MemoryBytes = field(default_factory=MemoryBytes, metadata={"part": MemoryBytes})
    feature_seconds: float | None = None
    memory_batches: Mapping[str, int] = field(default_factory=dict)
    memory_largest: MemoryBytes = field(default_factory=MemoryBytes, metadata={"part": MemoryBytes})
    flops_per_sample: int | None = None
    samples_per_second: float | None = None
    energy: EnergyRecord = field(default_factory=EnergyRecord, metadata={"part": EnergyRecord})
    micro_batch: int | None = None
    parameters: ParameterCount = field(default_factory=ParameterCount, metadata={"part": ParameterCount})
    saved_model_bytes: int | None = None
    cuda_memory: CudaMemory | None = field(default=None, metadata={"part": CudaMemory, **_NULL})
    wall_seconds: float | None = None
    test_seconds: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class EpochRecord(ResultPart):
    """One epoch.

    Args:
        epoch: from 1. step: steps of the optimizer so far. seconds: of training so far.
        train_loss, val_loss: means.
        val: the primary metric on val; None where it is undefined.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    train_loss: float | None = field(default=None, metadata=_NULL)
    val_loss: float | None = field(default=None, metadata=_NULL)
    val: float | None = field(default=None, metadata=_NULL)


@dataclass(frozen=True, kw_only=True, eq=False)
class RateSearch(ResultPart):
    """The learning rates that an ablation tried on val, and the one that it chose for this run.

    Args:
        tries: how many were asked for. rates: each, ascending.
        val: of the best epoch at each rate; larger is better, so that a loss is negated. None: the try failed.
        metric: of `val`: the name of the primary metric, or "loss".
        seconds: of training and of the evaluations on val at each rate; None where the try failed.
        chosen: the best rate; the configured one where all tries failed.
        on: the run's folder name for whose variant they were tried, with `variant`, its name, and `seed`, its seed.
        inherited: they were tried for another variant than that of this run.
        try_for: in the record of a try: the folder name of the run that it is a try for.
    """

    tries: int = 0
    rates: tuple[float, ...] = ()
    val: tuple[float | None, ...] = ()
    metric: str = ""
    seconds: tuple[float | None, ...] = ()
    chosen: float | None = None
    on: str = ""
    variant: str = ""
    seed: int | None = None
    inherited: bool = False
    try_for: str = ""

    @property
    def finished(self) -> tuple[float, ...]:
        """Return the rates whose tries finished."""
        return tuple(rate for rate, value in zip(self.rates, self.val, strict=False) if value is not None)

    @property
    def edge(self) -> str:
        """Return "smallest" or "largest" where the chosen rate is that of the finished tries, else an empty string."""
        # Of the finished ones: what lies beyond a try that failed is as unknown as what was not tried.
        ends = self.finished
        if self.chosen not in ends:
            return ""
        return "smallest" if self.chosen == min(ends) else "largest" if self.chosen == max(ends) else ""

    @property
    def edge_of(self) -> str:
        """Return of which rates `edge` is: "tried", or "that finished" where tries failed."""
        return "tried" if len(self.finished) == len(self.rates) else "that finished"

    @property
    def total_seconds(self) -> float:
        """Return the seconds of all tries whose time is known."""
        return sum(value for value in self.seconds if value is not None)

    @property
    def origin(self) -> str:
        """Return where the run's rate is from: "searched", "inherited" from another variant, or "configured"."""
        if not self.finished:
            return "configured"
        return "inherited" if self.inherited else "searched"
