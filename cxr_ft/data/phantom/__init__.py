"""A synthetic chest X-ray archive with known truth, in MIMIC-CXR's layout: for demos and tests without patients.

From a seed, `cases` says who has what; `anatomy`, `frontal`, `lateral`, `findings` and `devices` draw it, `film`
exposes it, `render` joins these; `label_noise` says what the labelers make of it, `report_writer` what the report says,
`biases` what is planted; `dicom_file` and `archive_tables` write it down, `archive` puts it on disk.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from cxr_ft.data.phantom.biases import BIASES, NONE, checked, parsed
from cxr_ft.data.phantom.signature import PARAMETERS
from cxr_ft.errors import UsageError, unknown

#: Part of every archive's parameters; raised whenever the same seed would give other bytes.
FORMAT = 5
PREFIX = "phantom:"
DEFAULTS = {"subjects": 200, "seed": 0, "size": 512}
#: Least and most of each. With a million subjects ids stay within eight digits, as MIMIC-CXR writes them.
LIMITS = {"subjects": (1, 1_000_000), "seed": (0, 2**31 - 1), "size": (32, 4096)}


def make_archive(
    out: Path,
    subjects: int = 200,
    seed: int = 0,
    size: int = 512,
    workers: int = 1,
    *,
    biases: Mapping[str, float] = NONE,
) -> None:
    """Write a synthetic archive to the folder `out`: new, empty, or this very archive (then nothing is done).

    The bytes follow from subjects, seed, size and biases alone. `size` is the films' short side in pixels; `biases`
    gives strengths 0..1 by name (`biases.BIASES` says what they do); `workers` is a number of processes; above 1, the
    caller's script needs an `if __name__ == "__main__"` guard.

    Raises:
        UsageError: for a value out of range, and where `out` holds something else or cannot be written.
    """
    values = {"subjects": subjects, "seed": seed, "size": size}
    for name, value in values.items():
        _check(name, value, "the phantom's parameters")
    planted = checked(biases, "the phantom's parameters")
    if workers < 1:
        raise UsageError(f"workers {workers}: at least 1 process is needed")
    # Imported late: only whoever draws an archive needs OpenCV and the writers.
    from cxr_ft.data.phantom.archive import Plan, write_archive

    write_archive(Path(out), Plan(format=FORMAT, **values, biases=planted), workers)


def is_spec(text: str) -> bool:
    """Return True if a text names a phantom archive ("phantom:subjects=240,seed=0,size=192"), valid or not."""
    return text == PREFIX.removesuffix(":") or text.startswith(PREFIX)


def recorded_seed(folder: str) -> int | None:
    """Return the seed in the parameters of an archive on disk; None where there are none that can be read."""
    try:
        recorded = json.loads((Path(folder) / PARAMETERS).read_text(encoding="utf-8"))
        return int(recorded["seed"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def ensure(spec: str) -> Path:
    """Return the folder of the archive that a specification names, made in the user's cache folder on first use.

    Any subset of subjects, seed and size may be given, `DEFAULTS` holds the rest; and biases ("device=0.8").

    Raises:
        UsageError: for an unknown key, a bad value, and where the cache folder cannot be written.
    """
    from cxr_ft.files import cache_folder

    values, biases = _parse(spec)
    # The format is in the name: an archive in the cache that an older version drew is left where it is and not read.
    name = "-".join(f"{key}{value}" for key, value in (values | biases).items())
    folder = cache_folder() / "phantom" / f"format{FORMAT}-{name}"
    make_archive(folder, **values, biases=biases)
    return folder


def _parse(spec: str) -> tuple[dict[str, int], dict[str, float]]:
    if not is_spec(spec):
        raise UsageError(f"{spec!r} is no phantom specification; it looks like phantom:subjects=200,seed=0,size=512")
    values, texts = dict(DEFAULTS), {}
    for part in filter(None, spec.removeprefix(PREFIX.removesuffix(":")).removeprefix(":").split(",")):
        key, _, text = part.partition("=")
        if key in BIASES:
            texts[key] = text
            continue
        if key not in DEFAULTS:
            raise unknown("key", key, [*DEFAULTS, *BIASES], f"phantom specification {spec!r}")
        if not re.fullmatch(r"\d{1,10}", text, re.ASCII):
            raise UsageError(
                f"{key}={text} in phantom specification {spec!r}: a whole number is needed, {key}={DEFAULTS[key]}"
            )
        values[key] = int(text)
        _check(key, values[key], f"phantom specification {spec!r}")
    where = f"phantom specification {spec!r}"
    return values, checked(parsed(texts, where), where)


def _check(name: str, value: int, where: str) -> None:
    least, most = LIMITS[name]
    if not least <= value <= most:
        raise UsageError(f"{name} {value} in {where}: choose from {least} to {most}")
