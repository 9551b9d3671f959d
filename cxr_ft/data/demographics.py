"""Read sex and age from the words, numbers and codes that tables hold; what is not known is missing, never guessed."""

from typing import TYPE_CHECKING

from cxr_ft.data import sameness

if TYPE_CHECKING:
    import pandas as pd

#: DICOM's codes (PS3.3 C.7.1.1, Patient's Sex), and words of the languages that public archives come in.
FEMALE = (
    *("f", "female", "woman", "girl", "w", "weiblich", "frau", "mujer", "femenino", "femenina", "hembra", "femme"),
    *("féminin", "feminin", "femminile", "femmina", "donna", "feminino", "feminina", "mulher", "vrouw", "vrouwelijk"),
    *(
        "kvinna",
        "kvinde",
        "kvinne",
        "nainen",
        "kobieta",
        "žena",
        "женский",
        "женщина",
        "жен",
        "nữ",
        "kadın",
        "女",
        "女性",
    ),
    *("여", "여성", "여자", "أنثى"),
)
MALE = (
    *("m", "male", "man", "boy", "männlich", "mann", "hombre", "masculino", "varón", "varon", "homme", "masculin"),
    *("maschio", "maschile", "uomo", "homem", "mannelijk", "mand", "mies", "mężczyzna", "muž", "мужской", "мужчина"),
    *("муж", "nam", "erkek", "男", "男性", "남", "남성", "남자", "ذكر"),
)
OTHER = ("o", "other", "diverse", "divers", "nonbinary", "non-binary", "intersex", "otro", "autre")
#: The sexes as the package writes them.
SEXES = ("F", "M", "O")
#: Words that say that nothing is known.
UNKNOWN = ("", "u", "unknown", "n/a", "na", "nan", "none", "null", "?", "-", "unk", "not specified")
#: With one of these in a column, M is not male: Spanish tables write H (hombre) and M (mujer).
_LETTERS_OF_OTHER_LANGUAGES = {"h", "v"}
_SEX = {
    **dict.fromkeys(map(sameness.text_key, FEMALE), "F"),
    **dict.fromkeys(map(sameness.text_key, MALE), "M"),
    **dict.fromkeys(map(sameness.text_key, OTHER), "O"),
}
#: A range of years, as "50-59".
_RANGE = r"\d+\s*[-–]\s*\d+"
_YEARS = r"(\d+)(?:[.,]\d*)?\s*"
_UNITS = {
    **dict.fromkeys(("", "y", "yr", "yrs", "year", "years", "yo", "y/o", "years old", "jahre", "años", "ans"), 1.0),
    **dict.fromkeys(("m", "mo", "month", "months"), 1 / 12),
    **dict.fromkeys(("w", "wk", "week", "weeks"), 7 / 365.25),
    **dict.fromkeys(("d", "day", "days"), 1 / 365.25),
}


def sexes(raw: "pd.Series[str]", notes: list[str]) -> "pd.Series[str]":
    """Return M, F, O or missing [N] for codes and words of a table.

    Args:
        raw: as the table has it.
        notes: gets a line with the number of values that are no word known here.
    """
    words = raw.astype("string").fillna("").map(sameness.text_key)
    known = dict(_SEX)
    if _LETTERS_OF_OTHER_LANGUAGES.intersection(words.unique().tolist()):
        # Without it M is missing in such a column: a guess would turn women into men.
        known.pop("m")
    read = words.map(known).astype("string")
    _count_unread(words, read, "a sex", notes)
    return read


def ages(raw: "pd.Series[str]", notes: list[str]) -> "pd.Series[str]":
    """Return ages [N] as whole years, or as ranges where the table has ranges; missing beyond 0 to 120.

    58, 58.7, "58 years" and DICOM's 058Y and 010M (PS3.5 6.2) are years; "90+", ">=90" and ">89" are 90, and stay 90+
    in a column with ranges.

    Args:
        raw: as the table has it.
        notes: gets a line with the number of values that are none of these.
    """
    words = raw.astype("string").fillna("").map(sameness.text_key)
    open_end = words.str.extract(r"^(?:(?P<above>>|over )|(?P<least>>=|≥))?\s*(?P<years>\d+)\s*(?P<plus>\+?)$")
    # ">89" begins at 90 and ">=90" at 90 too, hence the one year added below.
    is_open = open_end["above"].notna() | open_end["least"].notna() | (open_end["plus"].fillna("") == "+")
    start = open_end["years"].where(is_open).astype("Int64") + open_end["above"].notna().astype("Int64")
    read = years(words.mask(is_open, start.astype("string")))
    ranges = words.str.fullmatch(_RANGE)
    if ranges.any():
        read = read.mask(ranges, words.str.replace(r"\s", "", regex=True).str.replace("–", "-"))
        read = read.mask(is_open, start.astype("string") + "+")
    _count_unread(words, read, "an age", notes)
    return read


def years(raw: "pd.Series[str]") -> "pd.Series[str]":
    """Return whole years [N] of single ages in any unit; missing beyond 0 to 120, and for anything else."""
    import pandas as pd

    words = raw.astype("string").str.strip().str.casefold()
    parts = words.str.extract(rf"^{_YEARS}([a-zñ/ ]*?)\s*\.?$")
    unit = parts[1].map(_UNITS).astype("Float64")
    # Completed years: 11 months are 0, and 58.7 is 58.
    read = (pd.to_numeric(parts[0]).astype("Float64") * unit).floordiv(1)
    return read.where(read.between(0, 120)).astype("Int64").astype("string")


def bands(raw: "pd.Series[str]") -> "pd.Series[str]":
    """Return ages as bands of ten years ("50-59"), the last of them "90+": an exact age may identify a person."""
    import pandas as pd

    # Ages above 89 identify a person (HIPAA's safe harbour), so the last band is open.
    start = pd.to_numeric(years(raw)).astype("Int64") // 10 * 10
    band = start.astype("string") + "-" + (start + 9).astype("string")
    return band.where((start < 90) | start.isna(), "90+")


def _count_unread(words: "pd.Series[str]", read: "pd.Series[str]", what: str, notes: list[str]) -> None:
    """Say in `notes` how many values were not understood; the values themselves stay where they are."""
    unread = read.isna() & ~words.isin(UNKNOWN)
    if count := int(unread.sum()):
        notes.append(f"{count} of {len(words)} rows have {what} that is no word or number known here: it is missing")
