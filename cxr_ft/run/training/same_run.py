"""Decide whether a folder holds the run that is to be trained: finished, to be resumed, or another one.

A run is its configuration, its splits and the weights of its base. Where only the weights differ, the run is refused,
unless --other-base allows it; the record then names the weights that were there before.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cxr_ft.config import RunConfig
from cxr_ft.data import manifest
from cxr_ft.errors import UsageError
from cxr_ft.model import base_weights
from cxr_ft.model.base_weights import BaseWeights
from cxr_ft.run.record import base_record, results
from cxr_ft.run.record.result_parts import BaseRecord
from cxr_ft.run.training import checkpoint

_FINISHED = ("trained", "success")


@dataclass(frozen=True, kw_only=True)
class Before:
    """The state of a run's folder before training.

    Args:
        result: of the finished run; None where there is none, or it is not finished.
        note: a line for the user; "" where there is nothing to say.
        replaced: digests of the other weights that the saved state was trained on, in order.
        fingerprints: under which a checkpoint of this run may have been written, besides its own.
        differs: the recorded weights are not those of now, which was allowed.
    """

    result: results.Result | None = None
    note: str = ""
    replaced: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()
    differs: bool = False


@dataclass(frozen=True)
class RunIdentity:
    """The identity of a run: its configuration, its splits and the weights of its base.

    Args:
        config: of the run.
        splits: that it is trained on.
        other_base: other weights than those recorded are allowed.
        repeats: record of the base of the run whose result.json is repeated; empty for a configuration of one's own.
    """

    config: RunConfig
    splits: manifest.Splits
    other_base: bool = False
    repeats: BaseRecord = field(default_factory=BaseRecord)

    @cached_property
    def weights(self) -> BaseWeights:
        """Return the weights of the base; the first call may fetch and hash them.

        Raises:
            UsageError: where there is no such base.
        """
        return base_weights.of(self.config.model)

    @property
    def fingerprint(self) -> str:
        """Return the hash of configuration, splits and weights."""
        return self.of_base(self.weights.digest)

    def of_base(self, digest: str | None) -> str:
        """Return the fingerprint that the run has with other weights; None: with weights that are not known."""
        return self.config.fingerprint(self.splits.hashes, digest)

    def compare_repeated(self) -> tuple[str, tuple[str, ...]]:
        """Compare the weights with those of the run that is repeated; return a note, and the digests replaced.

        Raises:
            UsageError: for a difference that is not allowed.
        """
        if self.repeats.digest is None:
            return "", ()
        model = self.config.model
        note = base_record.compare("the repeated run", model, self.repeats, self.weights, other_base=self.other_base)
        return note, (self.repeats.digest,) if note else ()

    def before(self, out: Path) -> Before:
        """Return what the folder `out` holds.

        Raises:
            UsageError: where it holds another run, or this one with other weights of the base that are not allowed.
        """
        if not (out / "result.json").exists():
            return Before()
        result = results.read(out)
        recorded = result.base
        if result.config_hash != self.of_base(recorded.digest):
            raise UsageError(f"{out} holds another run ({result.variant}, seed {result.seed}); choose another --out")
        finished = result.status in _FINISHED
        kept = finished or (out / checkpoint.FILE).exists()
        weights = self._weights_here() if finished else self.weights
        if weights is None:
            note = f"{out} is finished, and its base {self.config.model} is not here to be compared"
            return Before(result=result, note=note)
        note = base_record.compare(str(out), self.config.model, recorded, weights, other_base=self.other_base)
        differs = recorded.digest is not None and bool(note)
        if not kept:  # nothing of the earlier training is used
            return Before(note=note if differs else "")
        replaced = (*recorded.instead_of, *((recorded.digest,) if differs and recorded.digest else ()))
        return Before(
            result=result if finished else None,
            note=note,
            replaced=replaced,
            # By name alone, as before weights were recorded; else under any weights that the training has had.
            fingerprints=tuple(map(self.of_base, (None, *replaced))),
            differs=differs,
        )

    def adopt(self, out: Path, before: Before) -> results.Result | None:
        """Return the finished run in `out`; one still to be verified is first recorded with the weights of now.

        Verification puts the saved model on the base, so its test metrics are those of the base's weights of now.
        """
        result = before.result
        if result is None or not before.differs or result.status != "trained":
            return result
        base = base_record.record(self.weights, before.replaced)
        result = result.replace(base=base, config_hash=self.fingerprint)
        results.write(out, result)
        return result

    def _weights_here(self) -> BaseWeights | None:
        """Return the weights for a run that is finished; None where they are not on this machine."""
        try:
            weights = base_weights.of(self.config.model, fetch=False)
        except UsageError:
            return None
        return weights if weights.digest is not None else None
