"""A shard: what was written is read back, bytes follow from content alone, damage is seen, `datasets` opens it."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxr_ft.data.pixels import shards
from cxr_ft.data.pixels.image_decode import decoder
from cxr_ft.data.pixels.shards import PER_SHARD, Images, Shard
from cxr_ft.errors import UsageError

SIZE = 5


def some(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE), dtype=np.uint8)


def written(folder, count=7, seed=0):
    """A shard that lies in `folder`, and its images."""
    shard = Shard(folder / "0.arrow", folder, tuple(f"p/{i}.dcm" for i in range(count)), SIZE, decoder())
    images = some(count, seed)
    shards.write(shard.file, images, shard.paths)
    return shard, images


@given(count=st.integers(1, PER_SHARD), size=st.integers(1, 40), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, count, size, seed):
    file = tmp_path_factory.mktemp("shard") / "0.arrow"
    images = np.random.default_rng(seed).integers(0, 256, (count, size, size), dtype=np.uint8)
    paths = [f"ünï/{i}.dcm" for i in range(count)]
    shards.write(file, images, paths)
    batch = shards.read(file)
    assert batch.schema.names == ["image", "height", "width", "path"]
    assert batch.column("path").to_pylist() == paths
    assert batch.column("height").to_pylist() == batch.column("width").to_pylist() == [size] * count
    np.testing.assert_array_equal(Images([file], np.arange(count), size)[:], images)


def test_bytes_follow_from_the_content(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        written(tmp_path / name, seed=seed)
    one, same, other = ((tmp_path / name / "0.arrow").read_bytes() for name in "abc")
    assert one == same != other
    assert str(tmp_path).encode() not in one


def test_images_are_indexed_like_an_array(tmp_path):
    whole = some(2 * PER_SHARD + 3)
    files = [tmp_path / f"{i}.arrow" for i in range(3)]
    for i, file in enumerate(files):
        part = whole[i * PER_SHARD : (i + 1) * PER_SHARD]
        shards.write(file, part, [str(n) for n in range(len(part))])
    places = np.random.default_rng(3).integers(0, len(whole), 200)
    images, expected = Images(files, places, SIZE), whole[places]
    assert len(images) == 200
    assert images.shape == expected.shape
    indices = [0, -1, np.int64(5), slice(3, 90, 7), slice(0, 0), [4, 4, -2], np.arange(200) % 3 == 0, places % 200]
    for index in indices:
        np.testing.assert_array_equal(images[index], expected[index])
    np.testing.assert_array_equal(np.asarray(images), expected)
    np.testing.assert_array_equal(np.stack(list(images)), expected)  # it ends, by IndexError
    assert np.asarray(images, dtype=np.float32).dtype == np.float32
    with pytest.raises(IndexError):
        images[200]
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(images, copy=False)


def test_a_view_is_read_only_and_a_copy_is_not(tmp_path):
    shard, expected = written(tmp_path)
    images = Images([shard.file], np.arange(7), SIZE)
    with pytest.raises(ValueError, match="read-only"):
        images[2][:] = 0
    images[[2]][:] = 0
    np.testing.assert_array_equal(images[2], expected[2])


def test_pickled_images_carry_names_only(tmp_path):
    shard = Shard(tmp_path / "0.arrow", tmp_path, ("a", "b"), 300, decoder())
    shards.write(shard.file, np.full((2, 300, 300), 7, np.uint8), shard.paths)
    sent = pickle.dumps(Images([shard.file], np.array([1, 0]), 300))
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent)[0], 7)  # noqa: S301


def test_damage_is_seen(tmp_path):
    """Cut anywhere: not intact. A byte changed anywhere: not intact when looked at thoroughly, or nothing changed."""
    shard, _ = written(tmp_path)
    good = shard.file.read_bytes()
    whole = pa.ipc.open_stream(good).read_next_batch()
    assert shards.intact(shard)
    assert shards.intact(shard, thorough=True)
    end = len(good) - 8  # the mark of the stream's end: without it all is there
    for left in range(0, end, 7):
        shard.file.write_bytes(good[:left])
        assert not shards.intact(shard), left
    for at in range(0, len(good), 3):
        shard.file.write_bytes(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
        if shards.intact(shard, thorough=True):
            assert shards.read(shard.file).equals(whole)


def test_a_shard_of_other_images_is_not_intact(tmp_path):
    shard, images = written(tmp_path)
    shards.write(shard.file, images, [*shard.paths[:-1], "another.dcm"])
    assert not shards.intact(shard)
    shards.write(shard.file, images[:-1], shard.paths[:-1])
    assert not shards.intact(shard)
    shards.write(shard.file, np.ascontiguousarray(images[:, 1:, 1:]), shard.paths)
    assert not shards.intact(shard)
    with pa.OSFile(str(shard.file), "wb") as sink, pa.ipc.new_stream(sink, pa.schema([("image", pa.int8())])):
        pass
    assert not shards.intact(shard)


def test_a_write_that_stops_midway_leaves_what_was_there(tmp_path, monkeypatch):
    shard, images = written(tmp_path)
    before = shard.file.read_bytes()

    def full(sink, schema):
        sink.write(b"half a shard")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa.ipc, "new_stream", full)
    with pytest.raises(UsageError, match="No space left on device"):
        shards.write(shard.file, images[::-1].copy(), shard.paths)
    assert shard.file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [shard.file]


def test_make_finds_makes_and_mends(tmp_path):
    for i in range(3):
        Image.fromarray(np.full((6, 6), 50 * i, np.uint8)).save(tmp_path / f"{i}.png")
    shard = Shard(tmp_path / "out" / "0.arrow", tmp_path, ("0.png", "1.png", "2.png"), SIZE, decoder())
    assert shards.make(shard) == "made"
    good = shard.file.read_bytes()
    assert shards.make(shard, thorough=True) == "whole"
    shard.file.write_bytes(good.replace(b"\x32" * 25, b"\x33" * 25))
    assert shards.make(shard) == "whole"
    assert shards.make(shard, thorough=True) == "mended"
    assert shard.file.read_bytes() == good


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "0.png").write_bytes(b"no picture")
    shard = Shard(tmp_path / "out" / "0.arrow", tmp_path, ("0.png",), SIZE, decoder())
    with pytest.raises(UsageError, match=r"0\.png: not_dicom.*run cxr-split again"):
        shards.make(shard)
    assert not shard.file.exists()


def test_another_decoder_is_refused(tmp_path):
    shard = Shard(tmp_path / "0.arrow", tmp_path, ("0.png",), SIZE, "another")
    with pytest.raises(UsageError, match="install the same on all"):
        shards.make(shard)


def test_datasets_opens_a_shard(tmp_path):
    datasets = pytest.importorskip("datasets")
    shard, images = written(tmp_path)
    rows = datasets.Dataset.from_file(str(shard.file)).with_format("numpy", dtype=np.uint8)
    np.testing.assert_array_equal(np.stack([row["image"] for row in rows]), images)
    assert rows[3]["path"] == "p/3.dcm"
    assert (rows[3]["height"], rows[3]["width"]) == (SIZE, SIZE)
