"""Forecast a run before anything is loaded: memory by kind and time, compared with full fine-tuning."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxr_ft import plugins
from cxr_ft.config import PluginConfig, RunConfig
from cxr_ft.data import manifest
from cxr_ft.data.dataset import open_split
from cxr_ft.data.records import INPUT_TEXTS
from cxr_ft.model import assembly
from cxr_ft.model.protocols import Base, is_text_reader
from cxr_ft.run.cost import machine_speed, memory, step_forecast
from cxr_ft.run.record.result_parts import Cost, ParameterCount

if TYPE_CHECKING:
    import pandas as pd

#: Texts that are tokenised for the longest, and as many for the mean.
_TOKENISED = 500


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The forecast of a run.

    Args:
        step: of the run. full: of full fine-tuning at the same batch; None where the run is that, or trains nothing.
        parameters, parameters_full: of both.
        rows: of train; None without splits.
        tokens: of the longest row, 0 without text. known: whether that is the splits' longest text, or only the limit
            of the configuration.
        step_seconds: an estimate for this machine.
    """

    step: step_forecast.StepForecast
    full: step_forecast.StepForecast | None
    parameters: ParameterCount
    parameters_full: ParameterCount | None
    rows: int | None
    tokens: int
    known: bool
    step_seconds: float

    def costs(self) -> tuple[Cost, Cost] | None:
        """Return the forecast costs of the run and of full fine-tuning; None where there is nothing to compare."""
        if self.full is None or self.parameters_full is None:
            return None
        return (
            Cost(memory=self.step.memory, parameters=self.parameters, micro_batch=self.step.micro),
            Cost(memory=self.full.memory, parameters=self.parameters_full, micro_batch=self.full.micro),
        )


def forecast(
    config: RunConfig, labels: tuple[str, ...], multi_label: bool, splits: manifest.Splits | None = None
) -> Forecast:
    """Forecast the run of `config` at its batch; with `splits`, with the texts of their train.

    Raises:
        UsageError: for a model that cannot be built, as `cxr_ft.run.training.train.plan`.
    """
    parts = assembly.build(config, labels, multi_label, weights=False)
    micro = min(config.train.micro_batch or config.train.batch_size, config.train.batch_size)
    texts = None if splits is None else _texts(splits, config, parts.base, micro)
    shape = texts or step_forecast.texts_of(config, parts.base, micro)
    parameters = memory.parameters(parts.model, parts.head.new_modules)
    step = step_forecast.forecast_step(config, parts, len(labels), shape)
    full, parameters_full = None, None
    if parameters.trainable and config.tuning.name != "full":
        # With the default options of full fine-tuning: the run's own options belong to another method.
        tuning = PluginConfig("full", plugins.load(plugins.TUNING, "full").Config())
        other = dataclasses.replace(config, tuning=tuning)
        # Built anew: the forecast of a step leaves a model that is of no further use.
        parts = assembly.build(other, labels, multi_label, weights=False)
        parameters_full = memory.parameters(parts.model, parts.head.new_modules)
        full = step_forecast.forecast_step(other, parts, len(labels), shape)
    return Forecast(
        step=step,
        full=full,
        parameters=parameters,
        parameters_full=parameters_full,
        rows=None if splits is None else len(_table(splits, config)),
        tokens=max([b + w for b, w in zip(shape.before, shape.written, strict=True) if w] + list(shape.read)),
        known=texts is not None,
        step_seconds=machine_speed.seconds(step, machine_speed.rates(config.train.precision)),
    )


def _table(splits: manifest.Splits, config: RunConfig) -> "pd.DataFrame":
    """Return the rows of train that the run learns from: for a head that writes, one row a study with a text."""
    table = splits.tables["train"]
    head = config.head.options
    if not head.writes:
        return table
    column = open_split.text_column(splits, head.text)
    return table[table[column].notna() & (table[column] != "")].drop_duplicates("study_id")


def _texts(splits: manifest.Splits, config: RunConfig, base: Base, rows: int) -> step_forecast.TextLengths | None:
    """Return the lengths of `rows` rows: train's longest text, then texts of mean length.

    None without text, or where the base's tokenizer is not on this machine.
    """
    head, location, table = config.head.options, assembly.location(config.model), _table(splits, config)
    writes, reads = head.writes, is_text_reader(base)
    # A forecast fetches nothing from the network.
    if location is None or not (writes or reads):
        return None
    from transformers import AutoTokenizer

    # Never code from a model's folder.
    tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False)

    def tokens(columns: Sequence[str], most: int) -> list[int]:
        present = [name for name in columns if name in table]
        if not present or most < 1:
            return [0] * rows
        texts = table[present].fillna("").agg(" ".join, axis=1)
        # Length in characters orders well enough; tokenising all texts would take minutes.
        by_length = texts.iloc[texts.str.len().argsort(kind="stable")[::-1].to_numpy()]
        spread = by_length.iloc[:: max(1, len(by_length) // _TOKENISED)]
        longest, others = (
            [min(len(ids), most) for ids in tokenizer(some.tolist(), add_special_tokens=False).input_ids]
            for some in (by_length.iloc[:_TOKENISED], spread)
        )
        # One row of the longest text: a batch is padded to its longest row, and the largest batch of a training needs
        # the memory.
        return [max(longest)] + [round(sum(others) / len(others))] * (rows - 1)

    prompt = len(tokenizer(head.prompt, add_special_tokens=False).input_ids) if writes else 0
    context = [0] * rows if reads else tokens(config.data.context, head.max_context)
    column = (open_split.text_column(splits, head.text),) if writes else ()
    # Start and end tokens are added to each text that is read, within the base's limit.
    special = tokenizer.num_special_tokens_to_add(pair=False)
    return step_forecast.TextLengths(
        before=[1 + prompt + n for n in context],
        written=[n + 1 for n in tokens(column, head.max_tokens - 1)] if writes else [0] * rows,
        read=[n + special for n in tokens(INPUT_TEXTS, base.limit - special)] if is_text_reader(base) else [0] * rows,
    )
