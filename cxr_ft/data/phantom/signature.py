"""Sign the phantom's rows, and know them again: by their image ids, never by the range of their numbers.

Every image id is a hash of 160 bits of the archive's seed, the study's id and the film's number, and every subject's id
follows from the study's. No other archive has such ids, and they stay with the rows when tables are copied, renamed or
put into a database. Whoever replaces the texts or pixels behind the ids has to declare the sensitivity (`cxr-split
--sensitivity`), for they carry no signature.
"""

import hashlib
from collections.abc import Sequence

#: The file that holds an archive's parameters, its seed among them.
PARAMETERS = "phantom.json"
#: Above MIMIC-CXR's subjects, which are numbered below 20,000,000; eight digits as theirs.
FIRST_ID = 90_000_000
#: Digits that an id has at most.
DIGITS = 12
#: Study ids a subject has room for, and films a study has at most.
STUDIES_A_SUBJECT, FILMS = 10, 2
#: Seeds that are tried where none is known: about 20 ms.
SEEDS = 10_000


def dicom_id(seed: int, study_id: int, number: int) -> str:
    """Return the id of film `number` of a study: 40 hexadecimal digits in five groups, as MIMIC-CXR's."""
    digest = hashlib.blake2b(f"{seed}/{study_id}/{number}".encode(), digest_size=20).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))


def is_signed(rows: Sequence[tuple[str, str, str]], seed: int | None = None) -> bool:
    """Return whether every row is one that the generator wrote, all with the same seed.

    Args:
        rows: subject_id, study_id and dicom_id of each row.
        seed: of the archive as its parameters say, where they are at hand; the first SEEDS are tried in any case.
    """
    if not rows or not all(_numbered(subject, study) for subject, study, _ in rows):
        return False
    _, study, image = rows[0]
    seeds = (*(() if seed is None else (seed,)), *range(SEEDS))
    known = next((one for one in seeds if _is_film(one, study, image)), None)
    return known is not None and all(_is_film(known, study, image) for _, study, image in rows)


def _numbered(subject: str, study: str) -> bool:
    """Return whether a subject's id follows from the study's."""
    # Longer numbers are no ids of ours, and int() refuses those of thousands of digits.
    if not all(text.isascii() and text.isdigit() and len(text) <= DIGITS for text in (subject, study)):
        return False
    index = int(study) - FIRST_ID
    return index >= 0 and int(subject) == FIRST_ID + index // STUDIES_A_SUBJECT


def _is_film(seed: int, study: str, image: str) -> bool:
    return image.lower() in {dicom_id(seed, int(study), number) for number in range(FILMS)}
