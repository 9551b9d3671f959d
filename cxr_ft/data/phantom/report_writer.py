"""Reports in MIMIC-CXR's shape, saying exactly what a study's `stated` holds: no more labels, no fewer."""

import textwrap
from collections.abc import Sequence

import numpy as np

from cxr_ft.data.phantom import phrases
from cxr_ft.data.phantom.anatomy import Body
from cxr_ft.data.phantom.cases import Study
from cxr_ft.data.phantom.findings import Sign

#: Millimetres a unit of the frame: half of 350 mm, times the zoom of about 1.1 in `render._pose`.
_MM = 190


def write(body: Body, study: Study, prior: Study | None, rng: np.random.Generator) -> str:
    """Return the report of a study; `prior` is the subject's study before it."""
    findings = _findings(study, prior, rng)
    impression = _impression(study, rng)
    sections = [
        ("EXAMINATION", [_examination(study, rng)]),
        ("INDICATION", [_indication(body, rng)]),
        ("TECHNIQUE", [_technique(study, rng)]),
        ("COMPARISON", [_comparison(prior, rng)]),
    ]
    # Real reports leave sections out and join others, and the section parser must cope with that.
    if rng.random() < 0.25:
        del sections[2]
    if rng.random() < 0.06:
        sections.append(("FINDINGS AND IMPRESSION", findings))
    else:
        sections += [("FINDINGS", findings), ("IMPRESSION", impression)]
    # Centred, as above each of MIMIC-CXR's reports.
    return f"{'FINAL REPORT':>44}\n" + "".join(_section(name, text) for name, text in sections)


def _section(name: str, sentences: Sequence[str]) -> str:
    # MIMIC-CXR's impressions are numbered lists where they have several points.
    numbered = name == "IMPRESSION" and len(sentences) > 1
    lines = [f"{index}. {text}" for index, text in enumerate(sentences, 1)] if numbered else [" ".join(sentences)]
    # Every line begins with one space: MIT-LCP's section parser knows a header by a line feed, one space and capitals.
    body = [line for text in lines for line in textwrap.wrap(text, 76)]
    if name in ("FINDINGS", "IMPRESSION", "FINDINGS AND IMPRESSION"):
        return "".join(f" {line}\n" for line in [f"{name}:", "", *body, ""])
    return "".join(f" {line}\n" for line in [f"{name}:  {body[0]}", *body[1:], ""])


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _examination(study: Study, rng: np.random.Generator) -> str:
    if study.portable:
        return _pick(rng, ("CHEST (PORTABLE AP)", "Chest: frontal portable"))
    if len(study.pictures) > 1:
        return _pick(rng, ("CHEST (PA AND LAT)", "Chest radiograph, PA and lateral"))
    return _pick(rng, ("CHEST (PA)", "Chest radiograph, single view"))


def _indication(body: Body, rng: np.random.Generator) -> str:
    # Three underscores stand where de-identification took out an age, a date or a name.
    who = f"___{body.sex}" if rng.random() < 0.6 else f"___ year old {'woman' if body.sex == 'F' else 'man'}"
    return f"{who} with {_pick(rng, phrases.COMPLAINTS)}  // {_pick(rng, phrases.QUESTIONS)}"


def _technique(study: Study, rng: np.random.Generator) -> str:
    if study.portable:
        return _pick(rng, ("Portable AP view of the chest.", "Single AP upright portable view of the chest."))
    views = "PA and lateral views" if len(study.pictures) > 1 else "PA view"
    return f"{views} of the chest{_pick(rng, ('.', ' were obtained.', ', upright.'))}"


def _comparison(prior: Study | None, rng: np.random.Generator) -> str:
    if prior is None:
        return _pick(rng, ("None.", "None available.", "No prior studies available."))
    # Dates of prior films are taken out as well.
    return _pick(rng, ("___.", "Chest radiograph from ___.", "Radiograph of ___ at ___."))


def _findings(study: Study, prior: Study | None, rng: np.random.Generator) -> list[str]:
    stated = study.stated
    sentences = [_device(sign, rng) for sign in study.reported if sign.label == "Support Devices"]
    if stated.get("No Finding") == 1:
        sentences.append(_pick(rng, phrases.CLEAR))
    signs = [sign for sign in study.reported if sign.label != "Support Devices"]
    by_sign = [_finding(study, sign, prior, rng) for sign in signs]
    sentences += [text for of_sign in by_sign for text in of_sign]
    # A hedged sign's "opacity" does not state the parent label where another sign makes it certain.
    certain = [
        of_sign[0]
        for sign, of_sign in zip(signs, by_sign, strict=True)
        if stated[sign.label] == stated.get("Lung Opacity")
    ]
    if stated.get("Lung Opacity") and "opacit" not in " ".join(certain).lower():
        table = phrases.POSITIVE if stated["Lung Opacity"] == 1 else phrases.UNSURE
        sentences.append(_pick(rng, table["Lung Opacity"]))
    sentences += _denials(study, rng)
    if rng.random() < 0.4:
        sentences.append(_pick(rng, phrases.FILLER))
    return sentences


def _finding(study: Study, sign: Sign, prior: Study | None, rng: np.random.Generator) -> list[str]:
    unsure = study.stated[sign.label] == -1
    text = _fill(_pick(rng, (phrases.UNSURE if unsure else phrases.POSITIVE)[_key(sign)]), sign)
    # The seed names the sign: the same one in the prior study, not another of its label.
    before = next((old for old in prior.reported if old.seed == sign.seed), None) if prior else None
    if before is not None and not unsure and rng.random() < 0.6:
        grown = sign.severity - before.severity
        trend = _pick(rng, phrases.TRENDS["same" if abs(grown) < 0.08 else "more" if grown > 0 else "less"])
        text = f"{text.removesuffix('.')}, {trend} compared to the prior study."
    sentences = [text]
    # Pneumonia is an interpretation of this opacity, so it is stated right behind it.
    if sign.kind == "patchy" and "Pneumonia" in study.stated:
        table = phrases.POSITIVE if study.stated["Pneumonia"] == 1 else phrases.UNSURE
        sentences.append(_pick(rng, table["Pneumonia"]))
    return sentences


def _denials(study: Study, rng: np.random.Generator) -> list[str]:
    denied = [label for label, value in study.stated.items() if value == 0]
    sentences = [_pick(rng, phrases.NORMAL[label]) for label in denied if label in phrases.NORMAL]
    # Nouns share one sentence ("no effusion or pneumothorax"): labelers have to read a negation over a list.
    nouns = [_pick(rng, phrases.ABSENT[label]) for label in denied if label in phrases.ABSENT]
    rng.shuffle(nouns)
    while nouns:
        count = int(rng.integers(1, 4))
        group, nouns = nouns[:count], nouns[count:]
        joined = group[0] if len(group) == 1 else ", ".join(group[:-1]) + f"{',' * (len(group) > 2)} or {group[-1]}"
        sentences.append(_pick(rng, phrases.DENIALS).format(joined))
    rng.shuffle(sentences)
    return sentences


def _impression(study: Study, rng: np.random.Generator) -> list[str]:
    lines = []
    # An impression begins with what matters most.
    for sign in sorted(study.reported, key=lambda sign: -sign.severity):
        if sign.label == "Support Devices":
            continue
        table = phrases.UNSURE if study.stated[sign.label] == -1 else phrases.BRIEF
        lines.append(_fill(_pick(rng, table[_key(sign)]), sign))
        if sign.kind == "patchy" and study.stated.get("Pneumonia") == 1:
            lines.append(_pick(rng, phrases.BRIEF["Pneumonia"]))
    if study.stated.get("No Finding") == 1:
        lines.append(_pick(rng, phrases.NOTHING))
    if study.stated.get("Support Devices") == 1 and rng.random() < 0.3:
        lines.append(_pick(rng, phrases.BRIEF_DEVICES))
    return lines


def _key(sign: Sign) -> str:
    return sign.kind if sign.label in ("Consolidation", "Pleural Other") else sign.label


def _device(sign: Sign, rng: np.random.Generator) -> str:
    text = _pick(rng, phrases.DEVICES[sign.kind]).format(side=sign.side, cm=int(rng.integers(3, 7)))
    return text[0].upper() + text[1:]


def _fill(template: str, sign: Sign) -> str:
    both = sign.side == "both"
    degree = 0 if sign.severity < 0.38 else 1 if sign.severity < 0.68 else 2
    zone = {"upper": "upper lung", "mid": "mid lung", "lower": "lower lobe"}.get(sign.zone, "lung")
    text = template.format(
        size=phrases.SIZES.get(sign.label, ("", "", ""))[degree],
        side="bilateral" if both else sign.side,
        lung="bilateral" if both else sign.side,
        place=f"{zone}s bilaterally" if both else f"{sign.side} {zone}",
        # The diameter of the mean nodule that `findings._lesion` draws at this severity.
        mm=round(2 * _MM * (0.026 + 0.065 * sign.severity)),
    )
    text = text.replace("a bilateral", "bilateral").replace("A bilateral", "Bilateral")
    return text[0].upper() + text[1:]
