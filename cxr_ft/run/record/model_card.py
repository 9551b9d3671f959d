"""The README.md of a model: what it is, what it learnt from, how well it does on val, and code that loads it."""

from pathlib import Path
from typing import Any

from cxr_ft.model import assembly
from cxr_ft.model.assembly import ModelParts
from cxr_ft.model.protocols import Writer
from cxr_ft.run.record.results import Result
from cxr_ft.score.metrics import registry


def text(result: Result, parts: ModelParts, saved: dict[str, Any], way: str, drift: Any = None) -> str:
    """The card, in Markdown.

    Args:
        result: the run's record; what it says of test is told only where the run was verified.
        parts: the model.
        saved: what labels.json says.
        way: "merged": all weights are in the folder; "adapter": PEFT's files for the base; "own": only cxr_ft reads it.
        drift: of a merged model, `cxr_ft.run.record.export.Drift`.
    """
    sections = [
        _head(result, way),
        _what(result),
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
        "## Limits\n\nMade to compare ways of fine-tuning. It is no medical device: no clinical use was studied, and "
        "its scores hold for data like that it was trained on."
    )
    return "\n\n".join(sections) + "\n"


def _head(result: Result, way: str) -> str:
    library = {"adapter": "peft", "merged": "transformers"}.get(way, "cxr_ft")
    base = base_name(str(result.config["model"]))
    about = f"base_model: {base}\nlibrary_name: {library}\ntags: [chest-x-ray, {result.task}, {result.method}]"
    return f"---\n{about}\n---\n\n# {base}, {result.variant}: {result.task}"


def base_name(model: str) -> str:
    """A hub name or shipped name as it is, a folder by its last part: a place on one machine tells nobody anything."""
    return Path(model).name if assembly.location(model) is not None else model


def _what(result: Result) -> str:
    count, options = result.plan["parameters"], result.config["tuning"]
    told = ", ".join(f"{k} {','.join(v) if isinstance(v, list) else v}" for k, v in options.items() if k != "name")
    return (
        f"Trained with {options['name']} ({told or 'no options'}), seed {result.seed}: {count['trainable']:,} of "
        f"{count['total']:,} parameters, {count['head']:,} of them in the head."
    )


def _data(result: Result) -> str:
    card, rows, subjects = (result.data.get(key) or {} for key in ("card", "rows", "subjects"))
    sides = ", ".join(f"{side} {n:,} rows of {subjects.get(side, 0):,} groups" for side, n in rows.items())
    known = {name: card.get(name) for name in ("sensitivity", "terms", "source", "citation")}
    told = "".join(f"\n- {name}: {value}" for name, value in known.items() if value)
    return f"## Data\n\n{card.get('name', 'unknown')}: {sides}.\n{told}"


def _labels(saved: dict[str, Any]) -> str:
    kind = "several at once" if saved.get("multi_label") else "one of them"
    return f"## Labels\n\n{', '.join(saved.get('labels', ()))} ({kind}). Names and thresholds stand in labels.json."


def _metrics(result: Result) -> str:
    sides = ("val", "test") if result.status == "success" else ("val",)
    lines = []
    for side in sides:
        metrics = result.metrics.get(side) or {}
        values = {known.name: known.value(metrics) for known in registry.shown_in("card")}
        told = [f"{name} {value:.3f}" for name, value in values.items() if value is not None]
        lines.append(f"- {side}: {', '.join(told) or 'undefined'}")
    if len(sides) == 1:
        lines.append("- test: not touched yet")
    return "## Metrics\n\nMeans over labels where there are labels.\n\n" + "\n".join(lines)


def _load(parts: ModelParts, result: Result, saved: dict[str, Any], way: str) -> str:
    if way == "own":
        return "## Loading\n\nWith cxr_ft: `cxr-predict RUN FILE...`, `cxr-evaluate RUN --splits DIR`."
    code = "\n".join(
        [*_imports(parts, way), "", *_model(parts, result, saved, way), *_inputs(parts), *_answer(parts, way)]
    )
    needs = "transformers and PEFT" if way == "adapter" else "transformers"
    base = "; BASE is the base's folder or hub name" if way == "adapter" else ""
    return f"## Loading\n\nWith {needs} alone, in this folder{base}:\n\n```python\n{code}\n```"


def _reads_text(parts: ModelParts) -> bool:
    return not parts.base.image_size


def _scores(parts: ModelParts) -> bool:
    return parts.head.output == "scores"


def _imports(parts: ModelParts, way: str) -> list[str]:
    names = ["AutoModel" if _scores(parts) else "AutoModelForCausalLM"]
    names += ["AutoTokenizer"] if _reads_text(parts) or not _scores(parts) else []
    lines = ["import torch"] if _reads_text(parts) else ["import numpy as np", "import torch", "from PIL import Image"]
    lines += ["from peft import PeftModel"] if way == "adapter" else []
    lines += ["from safetensors.torch import load_file"] if way == "merged" and _scores(parts) else []
    return [*lines, f"from transformers import {', '.join(names)}"]


def _model(parts: ModelParts, result: Result, saved: dict[str, Any], way: str) -> list[str]:
    auto = "AutoModel" if _scores(parts) else "AutoModelForCausalLM"
    if way == "merged":
        lines = [f'model = {auto}.from_pretrained(".").eval()']
        # transformers says that it does not use the head's two tensors: they are read here.
        return [*lines, 'head = load_file("model.safetensors")'] if _scores(parts) else lines
    lines = [f'BASE = "{base_name(str(result.config["model"]))}"', f"base = {auto}.from_pretrained(BASE)"]
    if parts.head.new_modules:
        model: Any = parts.model
        weight = next(p for name, p in model.named_parameters() if "classifier" in name and name.endswith("weight"))
        lines.append(f"base.classifier = torch.nn.Linear({weight.shape[1]}, {len(saved['labels'])})")
    return [*lines, 'model = PeftModel.from_pretrained(base, ".").eval()']


def _inputs(parts: Any) -> list[str]:
    if _reads_text(parts):
        return [
            'tokens = AutoTokenizer.from_pretrained(".")("a text", return_tensors="pt")',
            'mask = tokens["attention_mask"][..., None]',
        ]
    mean, deviation = _normalisation(parts.base)
    lines = [
        f"# {parts.base.image_size} pixels square, as cxr_ft.data.dicom.read_xray makes them",
        'image = torch.tensor(np.asarray(Image.open("image.png").convert("RGB"))) / 255',
        f"pixels = ((image - torch.tensor({mean})) / torch.tensor({deviation})).permute(2, 0, 1)[None]",
    ]
    if isinstance(parts.base, Writer):
        lines.append(f"start = torch.tensor([{_start(parts)}])  # what a text begins with")
    return lines


def _start(parts: Any) -> list[int]:
    """Token ids of the prompt, the start token first."""
    text = getattr(parts.head, "text", None)
    return [int(parts.base.start)] if text is None else [int(token) for token in text.prompt]


def _normalisation(base: Any) -> tuple[list[float], list[float]]:
    how = getattr(base, "processor", None)
    given = (base.mean, base.std) if how is None else (how.image_processor.image_mean, how.image_processor.image_std)
    mean, deviation = ([float(value) for value in values] for values in given)
    return mean, deviation


def _answer(parts: Any, way: str) -> list[str]:
    if not _scores(parts) and _reads_text(parts):
        return [
            f'ids = torch.cat((tokens["input_ids"], torch.tensor([{_start(parts)}])), dim=1)',
            "with torch.no_grad():",
            "    logits = model(input_ids=ids).logits[:, -1]",
            "    ids = model.generate(input_ids=ids, max_new_tokens=64, do_sample=False)",
            'print(AutoTokenizer.from_pretrained(".").batch_decode(ids, skip_special_tokens=True))',
        ]
    if not _scores(parts):
        return [
            "with torch.no_grad():",
            "    logits = model(input_ids=start, pixel_values=pixels).logits[:, -1]",
            "    ids = model.generate(input_ids=start, pixel_values=pixels, max_new_tokens=64, do_sample=False)",
            'print(AutoTokenizer.from_pretrained(".").batch_decode(ids, skip_special_tokens=True))',
        ]
    head = (
        'state @ head["classifier.weight"].T + head["classifier.bias"]'
        if way == "merged"
        else "model.classifier(state)"
    )
    state = parts.base.code[parts.head.pool]
    return ["with torch.no_grad():", f"    state = {state}", f"    logits = {head}", "print(logits.tolist())"]
