"""The fast header scan: pydicom's values on every file that pydicom accepts."""

import logging
import struct
import warnings

import numpy as np
import pytest
from dicom_files import IDENTIFYING, write_dicom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import DataElement, Dataset, dcmread, uid
from pydicom.datadict import tag_for_keyword

from cxr_ft.data.dicom import explicit_vr, header_scan
from cxr_ft.data.dicom.dicom_error import DicomError
from cxr_ft.errors import UsageError

#: What the walk reads itself, where nothing is out of the ordinary; and what it always leaves to pydicom besides.
HAND = (*header_scan.TAGS, "StudyDate", "StudyTime", "KVP", "SeriesNumber", "ImageType")
TAGS = (*HAND, "PatientName", "PixelSpacing", "WindowCenter")
PIXELS = np.arange(48, dtype=np.uint16).reshape(6, 8)


def by_pydicom(path, tags=TAGS):
    """pydicom's values, or None where it does not accept the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = dcmread(path, stop_before_pixels=True, force=True)
            file = {tag: header.file_meta if tag_for_keyword(tag) >> 16 == 2 else header for tag in tags}
            return tuple(header_scan.plain(file[tag].get(tag)) for tag in tags)
        except Exception:  # noqa: BLE001 - whatever it raises on broken files
            return None


def by_hand(path, tags=HAND):
    numbers, wanted = header_scan._numbers(tags)
    return explicit_vr.parse_tags(path, numbers, wanted)


def same(path):
    """Whether `read` gives what pydicom gives, types included, whoever reads."""
    for tags in (HAND, TAGS):
        if (expected := by_pydicom(path, tags)) is None:
            continue
        try:
            values = header_scan.read(path, tags)
        except DicomError as error:
            return str(error.reason) == "not_dicom"
        if repr(values) != repr(expected):  # types included, and one nan like another
            return False
    return True


def code(meaning):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99X", meaning
    item.PurposeOfReferenceCodeSequence = []
    return item


def usual(path, **tags):
    """A file with private tags and a sequence within a sequence."""
    outer = code("lateral")
    outer.ViewModifierCodeSequence = [code("erect"), code("")]
    private = {"a": DataElement(0x00091010, "LO", "MAKER"), "b": DataElement(0x00091011, "UN", b"\1\2")}
    more = {"ViewPosition": "PA", "PatientSex": "F", "PatientAge": "058Y", "ViewCodeSequence": [outer]}
    return write_dicom(path, PIXELS, **{**more, **private, **tags})


SYNTAXES = [
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda s: s.keyword)
@pytest.mark.parametrize("undefined", [False, True])
def test_every_encoding(tmp_path, syntax, undefined):
    path = usual(tmp_path / "a.dcm", syntax=syntax)
    header = dcmread(path)
    if undefined:
        for element in header.iterall():
            if element.VR == "SQ":
                element.is_undefined_length = True
                for item in element.value:
                    item.is_undefined_length_sequence_item = True
    header.save_as(path)
    values = dict(zip(TAGS, header_scan.read(path, TAGS), strict=True))
    assert values["ViewPosition"] == "PA" and values["PatientID"] == IDENTIFYING["PatientID"] and values["Rows"] == 6
    assert values["TransferSyntaxUID"] == syntax and values["PatientAge"] == "058Y"
    assert same(path)


@pytest.mark.parametrize("undefined", [False, True])
def test_the_usual_file_needs_no_pydicom(tmp_path, undefined, monkeypatch):
    path = usual(tmp_path / "a.dcm")
    header = dcmread(path)
    for element in header.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = undefined
            for item in element.value:
                item.is_undefined_length_sequence_item = undefined
    header.save_as(path)
    expected = header_scan.read(path)
    monkeypatch.setattr(header_scan, "dcmread", None)
    assert header_scan.read(path) == expected == by_pydicom(path, header_scan.TAGS)


def test_a_header_beyond_the_first_bytes(tmp_path, monkeypatch):
    path = usual(tmp_path / "a.dcm", x=DataElement(0x00091012, "OB", b"\0" * 30_000))
    expected = by_pydicom(path, header_scan.TAGS)
    monkeypatch.setattr(header_scan, "dcmread", None)
    assert header_scan.read(path) == expected


@pytest.mark.parametrize("size", [4080, 4084, 4088, 4090, 4095, 4096, 4097, 4100, 4104, 4200])
def test_where_the_first_bytes_end(tmp_path, size):
    """At any place: in a tag, in a length, in a value, at the end of the file."""
    path = usual(tmp_path / "a.dcm", PixelData=b"")
    length = size - path.stat().st_size
    usual(path, x=DataElement(0x00091012, "OB", b"\0" * (length & ~1)), PixelData=None)
    assert same(path)


def test_a_bare_data_set(tmp_path):
    for syntax in SYNTAXES[:3]:
        path = usual(tmp_path / "a.dcm", meta=False, syntax=syntax)
        assert same(path) and header_scan.read(path, ("Rows",)) == (6,)


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("ISO_IR 100", "Müller"),
        ("ISO_IR 192", "Łukasz"),
        ("ISO_IR 13", "A\\B~C"),
        (["", "ISO 2022 IR 87"], "山田"),
        ("ISO_IR 144", "Иван"),
        ("GB18030", "王小东"),
        ("no such set", "ANNA"),
    ],
)
def test_character_sets(tmp_path, charset, text):
    path = tmp_path / "a.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        usual(path, SpecificCharacterSet=charset, PatientID=text, PatientName=text)
    assert same(path)


@pytest.mark.parametrize("element", [
    DataElement(0x00280010, "SS", 6), DataElement(0x00280010, "UL", 6), DataElement(0x00280010, "IS", "6"),
    DataElement(0x00280010, "US", [6, 7]), DataElement(0x00280010, "DS", "6.0"), DataElement(0x00280010, "LO", "6"),
    DataElement(0x00280010, "US", None), DataElement(0x00280010, "OB", b"\6\0"),
    DataElement(0x00180060, "DS", "1e2"), DataElement(0x00180060, "DS", ""), DataElement(0x00180060, "DS", " 90.50 "),
    DataElement(0x00281050, "DS", ["1", "2"]), DataElement(0x00200011, "IS", "+007"),
    DataElement(0x00080008, "CS", ["DERIVED", "", "A "]), DataElement(0x00185101, "LO", "PA \0"),
    DataElement(0x00080016, "UI", "1.2\n"), DataElement(0x00080016, "UI", [" 1.2", "1.3\n", ""]),
    DataElement(0x00185101, "CS", ""), DataElement(0x00185101, "CS", "  "),
    DataElement(0x00100020, "LO", "a\\b "), DataElement(0x00100020, "UT", "a\\b "),
    DataElement(0x00100020, "AE", " a "),
], ids=str)  # fmt: skip
def test_odd_representations(tmp_path, element):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = usual(tmp_path / "a.dcm", x=element)
    assert same(path)


@pytest.mark.parametrize("value", [b"1,5 ", b"inf ", b"nan ", b"1_0 ", b"0x10", b"--1 ", b"1.5.", b" \0", "١".encode()])
@pytest.mark.parametrize("vr", [b"DS", b"IS", b"US", b"SS", b"CS"])
def test_values_that_are_no_numbers(tmp_path, value, vr):
    """Written byte by byte, since pydicom writes none of them."""
    path = tmp_path / "a.dcm"
    element = b"\x20\0\x11\0" + vr + struct.pack("<H", len(value)) + value
    assert _with_element(path, element).exists() and same(path)


def _with_element(path, element):
    """A small file whose data set is a modality and then `element`."""
    write_dicom(path, PIXELS, meta=True)
    start = path.read_bytes()
    at = start.index(b"\x08\0\x16\0UI")
    path.write_bytes(start[:at] + b"\x08\0\x60\0CS\2\0DX" + element + b"\xe0\x7f\x10\0OW\0\0\0\0\0\0")
    return path


def test_a_known_tag_of_unknown_representation(tmp_path):
    path = _with_element(tmp_path / "a.dcm", b"\x28\0\x10\0UN\0\0\2\0\0\0\6\0")
    assert same(path) and header_scan.read(path, ("Rows",)) == (6,)


def test_the_last_of_a_tag_given_twice_and_one_out_of_order(tmp_path):
    first, second = b"\x18\0\x01\x51CS\2\0PA", b"\x18\0\x01\x51CS\2\0AP"
    path = _with_element(tmp_path / "a.dcm", first + b"\x28\0\x10\0US\2\0\6\0" + second)
    assert same(path) and header_scan.read(path, ("ViewPosition",)) == ("AP",)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_broken_and_cut_files(tmp_path, data):
    """Any byte changed, any end cut off: pydicom's values wherever it has any."""
    path = tmp_path / "a.dcm"
    if not path.exists():
        usual(path)
        (tmp_path / "sound").write_bytes(path.read_bytes())
    raw = bytearray((tmp_path / "sound").read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(128, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(120, len(raw)) | st.just(len(raw)))])
    assert same(path)


_TEXT = st.text(st.characters(codec="latin-1"), max_size=12).map(lambda text: text.encode("latin-1"))
_VRS = st.sampled_from([b"CS", b"LO", b"SH", b"UI", b"IS", b"DS", b"US", b"AS", b"PN", b"AE", b"UN", b"UT", b"XX"])


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(TAGS), _VRS, _TEXT | st.sampled_from([b"12", b"1.5", b"PA", b"A\\B"]))))
def test_any_value_in_any_representation(tmp_path, elements):
    raw = b""
    for tag, vr, value in elements:
        number = tag_for_keyword(tag)
        if number >> 16 == 2:
            continue
        even = value + b" " * (len(value) % 2)
        length = b"\0\0" + struct.pack("<I", len(even)) if vr in (b"UN", b"UT") else struct.pack("<H", len(even))
        raw += struct.pack("<HH", number >> 16, number & 0xFFFF) + vr + length + even
    assert same(_with_element(tmp_path / "a.dcm", raw))


def test_on_the_phantom(tmp_path, monkeypatch):
    from cxr_ft.data.phantom import make_archive

    make_archive(tmp_path, subjects=8, seed=3, size=48)
    files = sorted(tmp_path.rglob("*.dcm"))
    headers = header_scan.scan(files, HAND)
    assert list(headers["path"]) == list(map(str, files)) and headers["problem"].isna().all()
    assert [tuple(row) for row in headers[list(HAND)].to_numpy()] == [by_pydicom(file, HAND) for file in files]


def test_a_thousand_sequences_deep(tmp_path):
    deep = b"\x40\0\x01\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * 2_000
    with pytest.raises(DicomError, match="bad_header"):
        header_scan.read(_with_element(tmp_path / "a.dcm", deep))


def test_what_is_no_dicom_file_is_said(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(300))
    (tmp_path / "b.txt").write_text("ROENTGEN")
    (tmp_path / "c").write_bytes(b"")
    usual(tmp_path / "d")
    names = ["a.png", "b.txt", "c", "nowhere", ".", "d"]
    headers = header_scan.scan([tmp_path / name for name in names])
    assert list(headers["problem"]) == [*["not_dicom"] * 3, *["not_readable"] * 2, None]
    assert headers["Rows"].tolist() == [None] * 5 + [6]
    assert header_scan.scan([]).empty


def test_nothing_of_a_header_reaches_a_log(tmp_path, caplog, recwarn, capfd):
    caplog.set_level(logging.DEBUG)
    path = usual(tmp_path / "a.dcm", syntax=uid.ImplicitVRLittleEndian, PatientAge="058Y")
    raw = path.read_bytes().replace(b"058Y", b"ANNA").replace(b"F \x10\0", b"HA\x10\0")
    path.write_bytes(raw)
    assert dict(zip(header_scan.TAGS, header_scan.read(path), strict=True))["PatientAge"] == "ANNA"
    assert not caplog.text and not recwarn.list and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("tag", ["PatientsName", "ViewCodeSequence", ""])
def test_an_unknown_tag(tmp_path, tag):
    with pytest.raises(UsageError, match="no DICOM keyword"):
        header_scan.scan([usual(tmp_path / "a.dcm")], [tag])


def test_the_walk_itself_is_tested(tmp_path):
    """So that the comparisons above compare two parsers, not pydicom with itself."""
    assert by_hand(usual(tmp_path / "a.dcm")) == by_pydicom(tmp_path / "a.dcm", HAND)
    with pytest.raises(explicit_vr.UnknownError):
        by_hand(usual(tmp_path / "a.dcm", syntax=uid.ImplicitVRLittleEndian))
