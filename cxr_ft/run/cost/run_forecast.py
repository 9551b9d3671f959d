"""What a run will need, said before anything is loaded: memory by kind, time, and both beside full fine-tuning's."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cxr_ft import plugins
from cxr_ft.config import Part, RunConfig
from cxr_ft.data import manifest
from cxr_ft.data.dataset import open_split
from cxr_ft.data.records import GIVEN
from cxr_ft.model import assembly
from cxr_ft.model.protocols import Base, is_text_reader
from cxr_ft.run.cost import machine_speed, parameter_count, step_forecast

if TYPE_CHECKING:
    import pandas as pd

#: Texts that are tokenised to find the longest, and as many to find the mean.
_SOME = 500


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Of a run and, at the same batch, of full fine-tuning (None where that is what is planned, or nothing is trained).

    rows: of train; None: unknown, without splits. tokens: how many a row has at most, 0 without text. known: whether
    the splits say so, or only the configuration's limits. step_seconds: an estimate for this machine.
    """

    one: step_forecast.StepForecast
    full: step_forecast.StepForecast | None
    parameters: dict[str, int]
    parameters_full: dict[str, int] | None
    rows: int | None
    tokens: int
    known: bool
    step_seconds: float

    def costs(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The run's and full fine-tuning's, as `cxr_ft.show.memory_sentence.sentence` reads them."""
        if self.full is None or self.parameters_full is None:
            return None
        return (
            {"memory": self.one.memory, "parameters": self.parameters, "micro_batch": self.one.micro},
            {"memory": self.full.memory, "parameters": self.parameters_full, "micro_batch": self.full.micro},
        )


def forecast(
    config: RunConfig, labels: tuple[str, ...], multi_label: bool, splits: manifest.Splits | None = None
) -> Forecast:
    """What the run of `config` will need, at its batch and, where `splits` are given, with the texts of their train.

    Raises:
        UsageError: for whatever cannot be put together, as `cxr_ft.run.training.train.plan`.
    """
    parts = assembly.build(config, labels, multi_label, weights=False)
    micro = min(config.train.micro_batch or config.train.batch_size, config.train.batch_size)
    texts = None if splits is None else _texts(splits, config, parts.base, micro)
    shape = texts or step_forecast.texts_of(config, parts.base, micro)
    parameters = parameter_count.parameters(parts.model, parts.head.new_modules)
    one = step_forecast.forecast_step(config, parts, len(labels), shape)
    whole, parameters_full = None, None
    if parameters["trainable"] and config.tuning.name != "full":
        rest = Part("full", plugins.load(plugins.TUNING, "full").Config())
        full = dataclasses.replace(config, tuning=rest)
        parts = assembly.build(full, labels, multi_label, weights=False)
        parameters_full = parameter_count.parameters(parts.model, parts.head.new_modules)
        whole = step_forecast.forecast_step(full, parts, len(labels), shape)
    return Forecast(
        one=one,
        full=whole,
        parameters=parameters,
        parameters_full=parameters_full,
        rows=None if splits is None else len(_table(splits, config)),
        tokens=max([b + w for b, w in zip(shape.before, shape.written, strict=True) if w] + list(shape.read)),
        known=texts is not None,
        step_seconds=machine_speed.seconds(one, machine_speed.rates(config.train.precision)),
    )


def _table(splits: manifest.Splits, config: RunConfig) -> "pd.DataFrame":
    """The rows of train that are learnt from, as `open_split` takes them."""
    table = splits.tables["train"]
    head = config.head.options
    if not head.writes:
        return table
    column = open_split.text_column(splits, head.text)
    return table[table[column].notna() & (table[column] != "")].drop_duplicates("study_id")


def _texts(splits: manifest.Splits, config: RunConfig, base: Base, rows: int) -> step_forecast.TextLengths | None:
    """Of `rows` rows the longest of train and others of mean length; None where no tokenizer is at hand, or no text."""
    head, where, table = config.head.options, assembly.location(config.model), _table(splits, config)
    writes, reads = head.writes, is_text_reader(base)
    if where is None or not (writes or reads):
        return None
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)

    def tokens(columns: Sequence[str], most: int) -> list[int]:
        there = [name for name in columns if name in table]
        if not there or most < 1:
            return [0] * rows
        texts = table[there].fillna("").agg(" ".join, axis=1)
        by_length = texts.iloc[texts.str.len().argsort(kind="stable")[::-1].to_numpy()]
        spread = by_length.iloc[:: max(1, len(by_length) // _SOME)]
        longest, others = (
            [min(len(ids), most) for ids in tokenizer(some.tolist(), add_special_tokens=False).input_ids]
            for some in (by_length.iloc[:_SOME], spread)
        )
        return [max(longest)] + [round(sum(others) / len(others))] * (rows - 1)

    prompt = len(tokenizer(head.prompt, add_special_tokens=False).input_ids) if writes else 0
    context = [0] * rows if reads else tokens(config.data.context, head.max_context)
    column = (open_split.text_column(splits, head.text),) if writes else ()
    around = tokenizer.num_special_tokens_to_add(pair=False)
    return step_forecast.TextLengths(
        before=[1 + prompt + given for given in context],
        written=[n + 1 for n in tokens(column, head.max_tokens - 1)] if writes else [0] * rows,
        read=[n + around for n in tokens(GIVEN, base.limit - around)] if is_text_reader(base) else [0] * rows,
    )
