"""What `cxr-train --plan` says of memory and time."""

from typing import TYPE_CHECKING

from cxr_ft.config import RunConfig

if TYPE_CHECKING:
    from cxr_ft.run.cost.run_forecast import Forecast


def say(resolved: RunConfig, forecast: "Forecast") -> None:
    """Print the forecast."""
    for line in [*_memory(resolved.tuning.name, forecast), *_time(resolved, forecast)]:
        print(line)


def _memory(method: str, forecast: "Forecast") -> list[str]:
    from cxr_ft.show.memory_sentence import sentence, size

    one = forecast.one
    kinds = ", ".join(f"{kind} {size(nbytes)}" for kind, nbytes in one.memory.items())
    if not forecast.parameters["trainable"]:
        return [f"memory: {kinds}; nothing is trained"]
    text = ""
    if forecast.tokens:
        how = "the longest of train" if forecast.known else "the most that the configuration allows"
        text = f", {forecast.tokens} tokens of text ({how})"
    lines = [
        f"memory: {size(sum(one.memory.values()))} at the peak of a step, {one.micro} rows at a time{text}",
        f"  {kinds}",
    ]
    if (costs := forecast.costs()) is not None:
        lines.append(f"  {sentence(method, *costs)}")
    return lines


def _time(resolved: RunConfig, forecast: "Forecast") -> list[str]:
    from cxr_ft.run.cost.machine_speed import RANGE

    one, train = forecast.one, resolved.train
    if not one.flops:
        return []
    rows = 1000 if forecast.rows is None else forecast.rows
    steps = -(-rows // train.batch_size)
    seconds = steps * forecast.step_seconds * (1 if forecast.rows is None else train.epochs)
    what = "each 1,000 rows" if forecast.rows is None else f"{train.epochs} epochs of {rows:,} rows"
    low, high = (_duration(seconds * factor) for factor in RANGE)
    work = f"{_number(one.flops_per_sample / 1e9)} GFLOPs a row, {_duration(forecast.step_seconds)} a step"
    return [
        f"time: about {_duration(seconds)} to train {what} on this machine ({low} to {high}; without evaluation, "
        f"the machine left alone): {work}"
    ]


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{_number(seconds / length)} {unit}"
    return f"{_number(seconds)} s"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
