"""Format what the commands print: the forecast of a run, and metrics."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cxr_ft.config import RunConfig

if TYPE_CHECKING:
    from cxr_ft.run.cost.run_forecast import Forecast


def metrics_line(metrics: Mapping[str, object]) -> str:
    """Return the main metrics of one split in a line."""
    from cxr_ft.score.metrics import registry

    shown = {"loss": metrics.get("loss")}
    shown |= {one.key: one.value(metrics) for one in registry.shown_in("command") if one.recorded_in(metrics)}
    return "  ".join(f"{key} {'undefined' if value is None else f'{value:.4f}'}" for key, value in shown.items())


def forecast_lines(resolved: RunConfig, forecast: "Forecast") -> list[str]:
    """Return what `cxr-train --plan` prints of memory and time."""
    return [*_memory(resolved.tuning.name, forecast), *_time(resolved, forecast)]


def _memory(method: str, forecast: "Forecast") -> list[str]:
    from cxr_ft.show.memory_sentence import sentence
    from cxr_ft.show.number_format import size

    step = forecast.step
    kinds = ", ".join(f"{kind} {size(nbytes)}" for kind, nbytes in step.memory.items())
    if not forecast.parameters.trainable:
        return [f"memory: {kinds}; nothing is trained"]
    text = ""
    if forecast.tokens:
        length = "the longest of train" if forecast.known else "the most that the configuration allows"
        text = f", {forecast.tokens} tokens of text ({length})"
    lines = [
        f"memory: {size(step.memory.peak_bytes or 0)} at the peak of a step, {step.micro} rows at a time{text}",
        f"  {kinds}",
    ]
    if (costs := forecast.costs()) is not None:
        lines.append(f"  {sentence(method, *costs)}")
    return lines


def _time(resolved: RunConfig, forecast: "Forecast") -> list[str]:
    from cxr_ft.run.cost.machine_speed import RANGE

    step, train = forecast.step, resolved.train
    if not step.flops:
        return []
    rows = 1000 if forecast.rows is None else forecast.rows
    steps = -(-rows // train.batch_size)
    seconds = steps * forecast.step_seconds * (1 if forecast.rows is None else train.epochs)
    data = "each 1,000 rows" if forecast.rows is None else f"{train.epochs} epochs of {rows:,} rows"
    low, high = (_duration(seconds * factor) for factor in RANGE)
    work = f"{_number(step.flops_per_sample / 1e9)} GFLOPs a row, {_duration(forecast.step_seconds)} a step"
    return [
        f"time: about {_duration(seconds)} to train {data} on this machine ({low} to {high}; without evaluation, "
        f"on an otherwise idle machine): {work}"
    ]


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{_number(seconds / length)} {unit}"
    return f"{_number(seconds)} s"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
