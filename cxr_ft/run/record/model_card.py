"""Write the README.md of a model: training, data, labels, metrics, and code that loads it."""

from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft.model import assembly
from cxr_ft.model.assembly import ModelParts
from cxr_ft.model.protocols import CardCode, is_writer
from cxr_ft.run.record.results import Result
from cxr_ft.run.record.saved_labels import SavedLabels
from cxr_ft.score.metrics import registry

if TYPE_CHECKING:
    from cxr_ft.run.record.export import Drift


def text(result: Result, parts: ModelParts, saved: SavedLabels, way: str, drift: "Drift | None" = None) -> str:
    """Return the card, in Markdown.

    Args:
        result: the run's record; its metrics on test are shown only where the run was verified.
        parts: the model.
        saved: the content of labels.json.
        way: "merged": all weights are in the folder; "adapter": PEFT's files for the base; "own": only cxr_ft reads it.
        drift: of a merged model, `cxr_ft.run.record.export.Drift`.
    """
    sections = [
        _head(result, way),
        _training(result),
        _data(result),
        _labels(saved),
        _metrics(result),
        _load(parts, result, saved, way),
    ]
    if drift is not None:
        sections.append(
            f"## Merging\n\nOn {drift.rows} rows of val the merged model's logits differ from the trained one's by "
            f"{drift.largest:.2g} at most and {drift.mean:.2g} on average."
        )
    sections.append(
        "## Limits\n\nMade to compare methods of fine-tuning. It is not a medical device: no clinical use was studied, "
        "and its metrics hold for data like its training data."
    )
    return "\n\n".join(sections) + "\n"


def _head(result: Result, way: str) -> str:
    library = {"adapter": "peft", "merged": "transformers"}.get(way, "cxr_ft")
    base = base_name(str(result.config["model"]))
    about = f"base_model: {base}\nlibrary_name: {library}\ntags: [chest-x-ray, {result.task}, {result.method}]"
    return f"---\n{about}\n---\n\n# {base}, {result.variant}: {result.task}"


def base_name(model: str) -> str:
    """Return a hub name or shipped name as it is, and of a folder the last part: a path stays on its machine."""
    return Path(model).name if assembly.location(model) is not None else model


def _training(result: Result) -> str:
    count, options = result.plan.parameters, result.tuning
    shown = {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in options.items() if k != "name"}
    chosen = ", ".join(f"{k} {v}" for k, v in shown.items())
    return (
        f"Trained with {options['name']} ({chosen or 'no options'}), seed {result.seed}: {count.trainable:,} of "
        f"{count.total:,} parameters, {count.head:,} of them in the head."
    )


def _data(result: Result) -> str:
    data, card = result.data, result.data.card
    splits = ", ".join(f"{name} {n:,} rows of {data.subjects.get(name, 0):,} groups" for name, n in data.rows.items())
    if card is None:
        return f"## Data\n\nunknown: {splits}.\n"
    known = {"sensitivity": card.sensitivity, "terms": card.terms, "source": card.source, "citation": card.citation}
    lines = "".join(f"\n- {name}: {value}" for name, value in known.items() if value)
    return f"## Data\n\n{card.name}: {splits}.\n{lines}"


def _labels(saved: SavedLabels) -> str:
    kind = "several at once" if saved.multi_label else "one of them"
    return f"## Labels\n\n{', '.join(saved.labels)} ({kind}). Names and thresholds are in labels.json."


def _metrics(result: Result) -> str:
    # Metrics on test belong in a card only if the saved model was reloaded and gave them.
    splits = ("val", "test") if result.status == "success" else ("val",)
    lines = []
    for split in splits:
        metrics = result.metrics.get(split) or {}
        values = {metric.name: metric.value(metrics) for metric in registry.shown_in("card")}
        shown = [f"{name} {value:.3f}" for name, value in values.items() if value is not None]
        lines.append(f"- {split}: {', '.join(shown) or 'undefined'}")
    if len(splits) == 1:
        lines.append("- test: not evaluated yet")
    return "## Metrics\n\nMeans over labels where there are labels.\n\n" + "\n".join(lines)


def _load(parts: ModelParts, result: Result, saved: SavedLabels, way: str) -> str:
    if way == "own":
        return "## Loading\n\nWith cxr_ft: `cxr-predict RUN FILE...`, `cxr-evaluate RUN --splits DIR`."
    code = "\n".join(
        [
            *_imports(parts, way),
            "",
            *_model(parts, result, saved, way),
            *_card_code(parts).inputs,
            *_outputs(parts, way),
        ]
    )
    needs = "transformers and PEFT" if way == "adapter" else "transformers"
    base = "; BASE is the base's folder or hub name" if way == "adapter" else ""
    return f"## Loading\n\nWith {needs} alone, in this folder{base}:\n\n```python\n{code}\n```"


def _scores(parts: ModelParts) -> bool:
    return parts.head.output == "scores"


def _card_code(parts: ModelParts) -> CardCode:
    """Return the lines that the base brings; a text begins with the head's prompt, or with the start token alone."""
    prompt = list(parts.head.prompt) or ([parts.base.start] if is_writer(parts.base) else [])
    return parts.base.card_code(writes=not _scores(parts), prompt=prompt)


def _imports(parts: ModelParts, way: str) -> list[str]:
    code = _card_code(parts)
    lines = sorted(["import torch", *code.imports], key=lambda line: (line.startswith("from"), line))
    lines += ["from peft import PeftModel"] if way == "adapter" else []
    lines += ["from safetensors.torch import load_file"] if way == "merged" and _scores(parts) else []
    return [*lines, f"from transformers import {', '.join(code.classes)}"]


def _model(parts: ModelParts, result: Result, saved: SavedLabels, way: str) -> list[str]:
    auto = _card_code(parts).classes[0]
    if way == "merged":
        lines = [f'model = {auto}.from_pretrained(".").eval()']
        # transformers warns that it does not use the head's two tensors: the next line reads them.
        return [*lines, 'head = load_file("model.safetensors")'] if _scores(parts) else lines
    lines = [f'BASE = "{base_name(str(result.config["model"]))}"', f"base = {auto}.from_pretrained(BASE)"]
    if parts.head.new_modules:
        named = parts.model.named_parameters()
        weight = next(p for name, p in named if "classifier" in name and name.endswith("weight"))
        lines.append(f"base.classifier = torch.nn.Linear({weight.shape[1]}, {len(saved.labels)})")
    return [*lines, 'model = PeftModel.from_pretrained(base, ".").eval()']


def _outputs(parts: ModelParts, way: str) -> list[str]:
    if not _scores(parts):
        return list(_card_code(parts).generate)
    head = (
        'state @ head["classifier.weight"].T + head["classifier.bias"]'
        if way == "merged"
        else "model.classifier(state)"
    )
    state = parts.base.code[parts.head.pool]
    return ["with torch.no_grad():", f"    state = {state}", f"    logits = {head}", "print(logits.tolist())"]
