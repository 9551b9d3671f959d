"""A base is its weights: which files count, what is equal, and when a hash is computed again."""

import hashlib
import json
import os
import shutil
import stat
import time
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from cxr_ft.errors import UsageError
from cxr_ft.files import cache_folder
from cxr_ft.model import assembly, base_weights, weight_hashes
from cxr_ft.model.bases import causal_lm, git, text_encoder, timm_vision

FAMILIES = {"git": git, "timm_vision": timm_vision, "text_encoder": text_encoder, "causal_lm": causal_lm}
COMMIT, LATER = "a" * 40, "b" * 40


def saved(folder, family="git", **how):
    """The tiny model of a family in a folder; `how`: options of save_pretrained."""
    tiny = FAMILIES[family].tiny()
    tiny.save(folder, tiny.lm)
    if how:
        (folder / "model.safetensors").unlink()
        tiny.lm.save_pretrained(folder, **how)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copy")


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that are really read, in order; nothing is known from before."""
    names, whole = [], weight_hashes._hashed
    monkeypatch.setattr(weight_hashes, "_known", {})
    monkeypatch.setattr(weight_hashes, "_hashed", lambda file, name: names.append(name) or whole(file, name))
    return names


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def replace(path, by=b"\x01"):
    """Change the last byte of a file in place, its size and mtime as before."""
    before = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + by)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_one_file_is_known_by_its_own_hash(copy):
    weights = base_weights.of(str(copy))
    assert weights.files == {"model.safetensors": digest(copy / "model.safetensors")}
    assert weights.digest == digest(copy / "model.safetensors") and weights.revision is None


def test_a_replaced_file_of_the_same_size_and_mtime_is_another_base(copy, hashed):
    before = base_weights.of(str(copy))
    replace(copy / "model.safetensors")
    after = base_weights.of(str(copy))
    assert after.files["model.safetensors"] == digest(copy / "model.safetensors") != before.digest
    assert hashed == ["model.safetensors"] * 2
    short = [weights.digest[:12] for weights in (after, before)]
    assert after.difference(before) == f"SHA-256 of model.safetensors is {short[0]} now, {short[1]} recorded"
    assert before.difference(before) == ""


@pytest.mark.parametrize(
    ("changed", "age_ms", "remembered", "waits"),
    [
        (5_000_000_001, 1, True, True),
        (5_000_000_001, 30, True, False),
        (5_000_000_000, 30, False, False),  # a file system of whole seconds
        (5_000_000_000, 2_001, True, False),
        (5_000_000_001, -500, False, False),  # the clock of a server that is ahead
    ],
)
def test_no_hash_is_kept_that_a_change_might_not_show(copy, hashed, monkeypatch, changed, age_ms, remembered, waits):
    """Within one step of the clock of file times two changes have one ctime."""
    slept, real = [], os.fstat
    clock = SimpleNamespace(time_ns=lambda: changed + age_ms * 1_000_000, sleep=slept.append, monotonic=time.monotonic)
    monkeypatch.setattr(weight_hashes, "time", clock)

    def fstat(handle):
        found = real(handle)
        names = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_uid", "st_mode")
        return SimpleNamespace(st_ctime_ns=changed, **{name: getattr(found, name) for name in names})

    monkeypatch.setattr(weight_hashes, "os", SimpleNamespace(fstat=fstat, geteuid=os.geteuid, fdopen=os.fdopen))
    for _ in range(2):
        base_weights.of(str(copy))
    assert len(hashed) == (1 if remembered else 2)
    assert any(0.015 < seconds < 0.02 for seconds in slept) == waits


def test_a_file_is_read_once_a_process_and_once_a_machine(copy, hashed, monkeypatch):
    for _ in range(3):
        base_weights.of(str(copy))
    assert hashed == ["model.safetensors"]
    monkeypatch.setattr(weight_hashes, "_known", {})  # as in another process
    base_weights.of(str(copy))
    assert hashed == ["model.safetensors"]


def test_the_cache_is_its_owners_alone(copy, hashed, monkeypatch):
    base_weights.of(str(copy))
    file = cache_folder() / weight_hashes.FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    # A cache that others could write is not believed, and a broken one is no error.
    forged = dict.fromkeys(json.loads(file.read_text()), "0" * 64)
    file.write_text(json.dumps(forged))
    file.chmod(0o666)
    monkeypatch.setattr(weight_hashes, "_known", {})
    assert base_weights.of(str(copy)).digest == digest(copy / "model.safetensors")
    file.write_text("{")
    monkeypatch.setattr(weight_hashes, "_known", {})
    assert base_weights.of(str(copy)).digest == digest(copy / "model.safetensors")
    assert len(hashed) == 3


def test_without_a_cache_folder_hashing_costs_time_alone(copy, hashed, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CXR_FT_CACHE", str(tmp_path / "file" / "cache"))
    assert base_weights.of(str(copy)).digest == digest(copy / "model.safetensors")


def test_slow_hashing_shows_a_bar(copy, monkeypatch, capsys):
    monkeypatch.setattr(weight_hashes, "QUIET", -1.0)
    monkeypatch.setattr("cxr_ft.progress.LOG_EVERY", 0.0)
    monkeypatch.setattr(weight_hashes, "_CHUNK", 100_000)
    base_weights.of(str(copy))
    chunks = -(-(copy / "model.safetensors").stat().st_size // 100_000)
    assert f"SHA-256 of model.safetensors: {chunks}/{chunks}" in capsys.readouterr().err


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sharded", [False, True])
def test_the_files_that_count_are_those_that_are_loaded(tmp_path, family, sharded):
    """Without any of them the base does not load; without any other weight file it loads as before."""
    folder = saved(tmp_path / "base", family, **({"max_shard_size": "40KB"} if sharded else {}))
    (folder / "pytorch_model.bin").write_bytes(b"others read this")
    files = base_weights.of(str(folder)).files
    assert (len(files) > 1) == sharded and all(name.endswith(".safetensors") for name in files)
    assert files == {name: digest(folder / name) for name in files}
    (folder / "pytorch_model.bin").unlink()
    module = assembly.family(str(folder))
    module.load(str(folder))
    config = json.loads((folder / "config.json").read_text())
    config.pop(assembly.SEED_KEY, None)  # a folder with a seed and no weights has random ones
    (folder / "config.json").write_text(json.dumps(config))
    for name in files:
        (folder / name).rename(tmp_path / "away")
        with pytest.raises(UsageError):
            module.load(str(folder))
        (tmp_path / "away").rename(folder / name)


def test_a_moved_base_is_the_same_and_names_do_not_count(copy, tmp_path):
    before = base_weights.of(str(copy))
    moved = copy.rename(tmp_path / "elsewhere")
    assert base_weights.of(str(moved)) == before
    (moved / "model.safetensors").rename(moved / "other.safetensors")
    raw = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**raw, "transformers_weights": "other.safetensors"}))
    renamed = base_weights.of(str(moved))
    assert renamed.files.keys() == {"other.safetensors"} and renamed.difference(before) == ""


def test_one_changed_shard_is_named(tmp_path):
    folder = saved(tmp_path / "base", max_shard_size="40KB")
    before = base_weights.of(str(folder))
    changed = sorted(before.files)[1]
    replace(folder / changed)
    after = base_weights.of(str(folder))
    assert after.difference(before) == f"1 of {len(before.files)} weight files have another SHA-256, {changed}"
    (folder / changed).unlink()
    with pytest.raises(UsageError, match=f"lacks {changed}, which model.safetensors.index.json names"):
        base_weights.of(str(folder))


def test_random_weights_are_their_seed_and_shape(tmp_path):
    drawn = base_weights.of("git-tiny-random")
    assert drawn.drawn == "seed 0" and drawn.files.keys() == {"config.json"} and drawn.digest
    assert drawn.digest != base_weights.of("bert-tiny-random").digest
    # With a weights file beside its seed, the file counts, as in loading.
    shutil.copytree(assembly.SHIPPED / "git-tiny-random", tmp_path / "tuned")
    assert base_weights.of(str(tmp_path / "tuned")) == drawn
    git.load("git-tiny-random").lm.save_pretrained(tmp_path / "tuned")
    tuned = base_weights.of(str(tmp_path / "tuned"))
    assert tuned.files.keys() == {"model.safetensors"} and tuned.drawn is None
    assert tuned.difference(drawn) == "model.safetensors now, random weights (seed 0) recorded"
    names = [f"{shape}-random" for shape in ("densenet121", "convnext_tiny")]
    assert len({base_weights.of(name).digest for name in names} | {drawn.digest, None}) == 4


@pytest.mark.parametrize("family", ["git", "text_encoder"])
def test_weights_in_shards_count_more_than_a_seed(tmp_path, family):
    """A saved random model keeps its seed in config.json; drawing its weights again would discard what it learnt."""
    folder = saved(tmp_path / "base", family)
    lm = FAMILIES[family].tiny().lm
    for parameter in lm.parameters():
        parameter.data.mul_(2)
    (folder / "model.safetensors").unlink()
    lm.save_pretrained(folder, max_shard_size="40KB")
    assert assembly.SEED_KEY in (folder / "config.json").read_text()
    loaded = dict(FAMILIES[family].load(str(folder)).lm.named_parameters())
    name, expected = next((name, p) for name, p in lm.named_parameters() if "query.weight" in name)
    assert torch.equal(loaded[name], expected)


def test_a_shipped_base_has_its_file(hashed):
    name = "git-phantom-tiny"
    assert base_weights.of(name).digest == digest(assembly.SHIPPED / name / "model.safetensors")


def published(cache, folder, commit, main):
    """Put a folder into a cache of the hub as the revision `commit` of acme/tiny, its files as links to blobs."""
    place = cache / "models--acme--tiny"
    for part in ("blobs", "refs", f"snapshots/{commit}"):
        (place / part).mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        blob = place / "blobs" / digest(path)
        shutil.copy(path, blob)
        (place / "snapshots" / commit / path.name).symlink_to(f"../../blobs/{blob.name}")
    (place / "refs" / "main").write_text(main)
    return place / "snapshots" / commit


def test_a_base_of_the_hub_has_its_revision(tiny, copy, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = published(tmp_path / "hub", tiny, COMMIT, main=COMMIT)
    first = base_weights.of("acme/tiny")
    assert first.revision == COMMIT and first.digest == digest(tiny / "model.safetensors")
    assert base_weights.of(str(snapshot)) == first  # the snapshot's folder by its path
    (tmp_path / "link").symlink_to(snapshot)
    assert base_weights.of(str(tmp_path / "link")) == first
    assert base_weights.of(str(tiny)).difference(first) == ""  # a plain folder with the same content
    # The reference moves to a revision with other weights, as after a download.
    replace(copy / "model.safetensors")
    published(tmp_path / "hub", copy, LATER, main=LATER)
    later = base_weights.of("acme/tiny")
    assert later.revision == LATER
    assert later.difference(first).endswith(f"revision {LATER[:12]} now, {COMMIT[:12]} recorded")


def test_a_sharded_base_of_the_hub(tmp_path, monkeypatch):
    from huggingface_hub import constants

    folder = saved(tmp_path / "base", max_shard_size="40KB")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    published(tmp_path / "hub", folder, COMMIT, main=COMMIT)
    weights = base_weights.of("acme/tiny")
    assert weights.files == base_weights.of(str(folder)).files and len(weights.files) > 1
    assert weights.revision == COMMIT


def test_a_base_that_is_not_here(tmp_path):
    with pytest.raises(UsageError, match="cannot get acme/absent from the hub"):
        base_weights.of("acme/absent")
    assert base_weights.of("microsoft/git-base", fetch=False).digest is None


def test_an_adapter_in_the_folder_counts(copy):
    """transformers puts it onto the weights."""
    (copy / "adapter_config.json").write_text("{}")
    safetensors.torch.save_file({"adapter": torch.zeros(2)}, copy / "adapter_model.safetensors")
    assert base_weights.of(str(copy)).files.keys() == {"model.safetensors", "adapter_model.safetensors"}


def test_a_file_that_changes_while_it_is_read_is_refused(copy, monkeypatch):
    def hashed(file, name):
        time.sleep(0.02)  # two steps of the clock of file times
        (copy / name).write_bytes(b"new")
        return "0" * 64

    monkeypatch.setattr(weight_hashes, "_hashed", hashed)
    with pytest.raises(UsageError, match="changed while it was read"):
        base_weights.of(str(copy))
