"""The cache: never stale, the same bytes however it is made, and whole after any kill."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_ft.data import manifest
from cxr_ft.data.dataset.open_split import open_split
from cxr_ft.data.layouts import folder
from cxr_ft.data.pixels import cache, image_decode, shards
from cxr_ft.data.sources import locations
from cxr_ft.data.splits.request import SplitRequest
from cxr_ft.data.splits.write import make_splits
from cxr_ft.errors import UsageError

SIZE = 8
#: Makes the cache of argv[2:] in argv[1] as a user's process does.
MAKE = (
    "import sys; from pathlib import Path; from cxr_ft.data.pixels import cache\n"
    f"cache.cached(Path(sys.argv[1]), sys.argv[2:], {SIZE})"
)


def draw(file, seed, side=(20, 16)):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, side, dtype=np.uint8)).save(file)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """300 pictures: five shards."""
    place = tmp_path_factory.mktemp("films")
    for i in range(300):
        draw(place / f"{i}.png", i)
    return place, [f"{i}.png" for i in range(300)]


@pytest.fixture
def few(tmp_path):
    """Three pictures of one's own, to be changed."""
    for i in range(3):
        draw(tmp_path / f"{i}.png", i)
    return tmp_path, ["0.png", "1.png", "2.png"]


@pytest.fixture
def splits(tmp_path):
    make_splits(folder.demo(tmp_path), "folder", SplitRequest(per_label=12), tmp_path / "splits")
    return tmp_path / "splits"


def everything(place):
    """Every file below a folder, hidden ones too, with its bytes."""
    return {str(file.relative_to(place)): file.read_bytes() for file in sorted(place.rglob("*")) if file.is_file()}


def expected(root, paths):
    return np.stack([image_decode.square(root / path, SIZE) for path in paths])


def elsewhere(monkeypatch, tmp_path, name):
    monkeypatch.setenv("CXR_FT_CACHE", str(tmp_path / name))
    return tmp_path / name


def test_the_pixels_are_those_of_the_files_in_the_requested_order(films):
    root, paths = films
    wanted = [*paths[250:], *paths[:10], paths[3]]
    np.testing.assert_array_equal(cache.cached(root, wanted, SIZE)[:], expected(root, wanted))
    shared = cache.cached(root, wanted, SIZE, among=paths)
    np.testing.assert_array_equal(shared[:], expected(root, wanted))
    assert len(cache.cached(root, [], SIZE)) == 0


def test_what_is_there_is_not_decoded_again(few, monkeypatch):
    root, paths = few
    first = cache.cached(root, paths, SIZE)[:]
    monkeypatch.setattr(shards, "square", lambda *_: pytest.fail("decoded again"))
    np.testing.assert_array_equal(cache.cached(root, paths, SIZE)[:], first)
    np.testing.assert_array_equal(cache.cached(root, paths[::-1], SIZE, among=paths)[:], first[::-1])


def test_a_file_under_several_paths_is_decoded_once(few):
    root, _ = few
    (root / "link.png").symlink_to("0.png")
    (root / "deep").mkdir()
    (root / "inside").symlink_to("deep")
    shutil.copy(root / "1.png", root / "deep" / "1.png")
    spellings = ["0.png", "./0.png", ".//0.png", "deep/../0.png", "link.png", "inside/1.png", "deep/1.png", "1.png"]
    np.testing.assert_array_equal(cache.cached(root, spellings, SIZE)[:], expected(root, spellings))
    (shard,) = cache.plan(root, spellings, SIZE)
    # The copy in the other folder is a file of its own.
    assert shard.paths == ("0.png", "inside/1.png", "1.png")
    assert cache.plan(root, ["./0.png"], SIZE)[0].file == cache.plan(root, ["0.png"], SIZE)[0].file


def swap(root):
    """Two films change places, and nothing of them: same sizes, same times."""
    (root / "0.png").rename(root / "x")
    (root / "1.png").rename(root / "0.png")
    (root / "x").rename(root / "1.png")


def overwrite_and_set_the_time_back(root):
    draw(root / "0.png", 9)
    os.truncate(root / "0.png", 4000)
    os.utime(root / "0.png", ns=(10**18, 10**18))


def copy_over_with_its_times(root):
    shutil.copy2(root / "2.png", root / "0.png")


@pytest.mark.parametrize("change", [swap, overwrite_and_set_the_time_back, copy_over_with_its_times])
def test_a_changed_file_is_never_a_stale_hit(few, change):
    root, paths = few
    for path in paths:  # as an unpacked archive has it: one size, one time
        os.truncate(root / path, 4000)
        os.utime(root / path, ns=(10**18, 10**18))
    before = cache.cached(root, paths, SIZE)[:]
    change(root)
    after = cache.cached(root, paths, SIZE)[:]
    np.testing.assert_array_equal(after, expected(root, paths))
    assert (before != after).any()


def test_a_changed_setting_is_another_cache(few, monkeypatch):
    root, paths = few
    plain = cache.plan(root, paths, SIZE)[0].file
    others = [cache.plan(root, paths, SIZE + 1)[0].file, cache.plan(root, paths[::-1], SIZE)[0].file]
    monkeypatch.setattr(cache, "decoder", lambda: "a new version")
    others.append(cache.plan(root, paths, SIZE)[0].file)
    assert len({file.parent for file in [plain, *others]}) == 4


def test_a_file_that_is_gone_or_broken_is_named(few):
    root, paths = few
    (root / "1.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"1\.png: not_dicom.*run cxr-split again"):
        cache.cached(root, paths, SIZE)
    (root / "1.png").unlink()
    with pytest.raises(UsageError, match=r"1\.png: No such file.*--root DIR"):
        cache.cached(root, paths, SIZE)


def test_remote_images_are_fetched_once_and_cached(few):
    fsspec = pytest.importorskip("fsspec")
    root, paths = few
    fsspec.filesystem("memory").put(str(root), "/cached/films", recursive=True)
    mirror = locations.mirror_folder("memory://cached/films")
    images = cache.cached(mirror, paths, SIZE)[:]
    np.testing.assert_array_equal(images, expected(root, paths))
    shutil.rmtree(mirror)  # what was fetched may go: the pixels are there
    fsspec.filesystem("memory").rm("/cached", recursive=True)
    np.testing.assert_array_equal(cache.cached(mirror, paths, SIZE)[:], images)


def test_a_full_disk_is_told_before_the_work(few, monkeypatch):
    root, paths = few
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3 * SIZE**2 - 1))
    with pytest.raises(UsageError, match="CXR_FT_CACHE"):
        cache.cached(root, paths, SIZE)


def test_any_number_of_workers_and_machines_gives_the_same_bytes(splits, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "PER_SHARD", 5)
    monkeypatch.setattr(shards, "PER_SHARD", 5)
    made = {}
    for name, parts, workers in (("one", 1, 1), ("two", 1, 2), ("three", 3, 1)):
        place = elsewhere(monkeypatch, tmp_path, name)
        done = [cache.build(splits, SIZE, (part, parts), workers) for part in range(1, parts + 1)]
        assert sum(built.made for built in done) == done[0].shards > 3
        assert [built.missing > 0 for built in done] == [True] * (parts - 1) + [False]
        made[name] = everything(place / "pixels")
    assert made["one"] == made["two"] == made["three"]


def test_training_reads_what_was_built(splits, monkeypatch):
    built = cache.build(splits, SIZE)
    read = manifest.read(splits)
    assert built.images == pd.concat(read.tables.values())["path"].nunique()
    monkeypatch.setattr(shards, "square", lambda *_: pytest.fail("decoded again"))
    for side, table in read.tables.items():
        rows = open_split(read, side, SIZE)
        root = cache.source_folder(read)
        np.testing.assert_array_equal(np.stack([example.image for example in rows]), expected(root, table["path"]))


def test_a_root_may_be_relative(few, monkeypatch):
    root, paths = few
    whole = cache.cached(root, paths, SIZE)[:]
    monkeypatch.chdir(root.parent)
    monkeypatch.setattr(shards, "square", lambda *_: pytest.fail("decoded again"))
    (shard,) = cache.plan(Path(root.name), paths, SIZE)
    assert shard.root == root
    np.testing.assert_array_equal(cache.cached(Path(root.name), paths, SIZE)[:], whole)


def test_a_study_shows_its_first_image():
    assert cache.first(pd.DataFrame({"path": ["a/pa.dcm|a/ap.dcm", "b.dcm"]})) == ["a/pa.dcm", "b.dcm"]


def test_build_again_mends_what_was_damaged(splits, tmp_path, monkeypatch):
    place = elsewhere(monkeypatch, tmp_path, "cache")
    built = cache.build(splits, SIZE, workers=1)
    good = everything(place)
    file = built.folder / "00000.arrow"
    file.write_bytes(file.read_bytes()[:-200])
    again = cache.build(splits, SIZE, workers=1)
    assert (again.mended, again.made, again.whole) == (1, 0, built.shards - 1)
    assert dataclasses.replace(again, mended=0, whole=0) == dataclasses.replace(built, made=0)
    assert everything(place) == good


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shard": (0, 2)}, "0/2"),
        ({"shard": (3, 2)}, "3/2"),
        ({"workers": 0}, "0 workers"),
        ({"size": 0}, "size 0"),
        ({"root": "/nowhere"}, "was the archive moved"),
    ],
)
def test_bad_arguments_are_one_line(splits, arguments, message):
    with pytest.raises(UsageError, match=message):
        cache.build(splits, **{"size": SIZE, **arguments})


def test_a_part_is_written_i_of_n():
    assert cache.part_of("2/8") == (2, 8)
    for text in ("2", "2/", "2/8/1", "-1/8", "a/8", " 1/8", "1.0/8", "²/8"):
        with pytest.raises(UsageError, match="as 2/8"):
            cache.part_of(text)


def start(root, paths, place):
    return subprocess.Popen(
        [sys.executable, "-c", MAKE, str(root), *paths],
        env={**os.environ, "CXR_FT_CACHE": str(place)},
        start_new_session=True,
        stderr=subprocess.PIPE,
    )


def test_killed_and_run_again_it_goes_on(films, tmp_path, monkeypatch):
    """SIGKILL to all its processes once the first shard is there; then the rest is made, and nothing is left over."""
    root, paths = films
    place = elsewhere(monkeypatch, tmp_path, "clean")
    cache.cached(root, paths, SIZE)
    clean = everything(place)
    place = elsewhere(monkeypatch, tmp_path, "killed")
    process = start(root, paths, place)
    while process.poll() is None and not list(place.glob("pixels/*/0*.arrow")):
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finished = {file: file.stat().st_ino for file in place.glob("pixels/*/0*.arrow")}
    assert finished
    (next(iter(finished)).parent / ".00001.arrow.dead.arrow").write_bytes(b"half")
    cache.cached(root, paths, SIZE)
    assert everything(place) == clean
    assert {file: file.stat().st_ino for file in finished} == finished  # kept, not made again


@pytest.mark.slow
def test_two_processes_make_one_cache(films, tmp_path, monkeypatch):
    root, paths = films
    clean = elsewhere(monkeypatch, tmp_path, "clean")
    cache.cached(root, paths, SIZE)
    both = [start(root, paths, tmp_path / "both") for _ in range(2)]
    errors = [process.communicate()[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert everything(tmp_path / "both") == everything(clean)


def test_a_shard_that_another_process_finished_and_tidied_is_taken(few, monkeypatch):
    """The worst moment: our temporary file goes away before it is renamed."""
    root, paths = few
    (shard,) = cache.plan(root, paths, SIZE)
    write = shards.write

    def overtaken(file, images, names):
        write(file, images, names)
        raise UsageError("cannot write: our temporary file is gone")

    monkeypatch.setattr(shards, "write", overtaken)
    assert shards.make(shard) == "made"
    monkeypatch.setattr(shards, "write", lambda *_: (_ for _ in ()).throw(UsageError("disk full")))
    shard.file.unlink()
    with pytest.raises(UsageError, match="disk full"):
        shards.make(shard)


@pytest.mark.slow
def test_killed_twenty_times_at_random(films, tmp_path, monkeypatch):
    root, paths = films
    place = elsewhere(monkeypatch, tmp_path, "clean")
    begin = time.monotonic()
    assert start(root, paths, place).wait() == 0
    whole, clean = time.monotonic() - begin, everything(place)
    moments = np.random.default_rng(0).uniform(0.5, 1, 20) * whole
    for moment in moments:
        place = elsewhere(monkeypatch, tmp_path, f"{moment}")
        process = start(root, paths, place)
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        cache.cached(root, paths, SIZE)
        assert everything(place) == clean
