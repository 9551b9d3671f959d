"""What differs between runs besides the method, and which claims it bars."""

import copy

import pytest

from cxr_ft.score.conditions import NOT_RECORDED, flatten
from cxr_ft.score.fairness import ABSENT, barring, differences, mismatches, ranked, verdict


def config(batch, method, seed, **more):
    tuning = {"name": method, "rank": 8 if method == "lora" else None}
    return {"tuning": tuning, "train": {"batch_size": batch, "seed": seed, "epochs": 3}, **more}


def test_the_method_and_the_seed_may_differ():
    assert differences([config(4, "full", 0), config(4, "lora", 1)]) == []
    assert differences([]) == differences([config(4, "full", 0)]) == []


def test_the_published_trap_is_named():
    full = config(4, "full", 0, sha256={"test.csv": "a"})
    lora = config(16, "lora", 0, sha256={"test.csv": "b"})
    assert differences([full, lora]) == [("sha256.test.csv", ["a", "b"]), ("train.batch_size", [4, 16])]


def test_a_setting_that_one_run_lacks_is_a_difference():
    assert differences([{"a": None}, {}]) == [("a", [None, ABSENT])]
    assert differences([{"a": [1, 2]}, {"a": [2, 1]}]) == [("a", [[1, 2], [2, 1]])]


def test_only_whole_names_are_passed_over():
    assert differences([{"tuning2": 1, "train": {"seeds": 1}}, {"tuning2": 2, "train": {"seeds": 2}}]) == [
        ("train.seeds", [1, 2]),
        ("tuning2", [1, 2]),
    ]
    assert differences([{"tuning": 1}, {"tuning": 2}], intended=()) == [("tuning", [1, 2])]


def run(method="lora", seed=0, **changes):
    """A record as cxr-train leaves it, some of its values changed by path."""
    record = {
        "config": {
            "data": {
                "splits": f"/somewhere/{method}",
                "root": None,
                "augment": "none",
                "image_size": None,
                "uncertain": None,
            },
            "model": "git-tiny",
            "head": {"name": "classify", "pool": ""},
            "tuning": {"name": method, "lr": 1e-5 if method == "full" else 1e-3},
            "train": {"seed": seed, "epochs": 3, "batch_size": 16, "micro_batch": 0, "precision": "no", "clip": 1.0},
        },
        "environment": {
            "cxr_ft": "0.1.0",
            "commit": "abc",
            "packages": {"torch": "2.15.0"},
            "device": "H200",
            "threads": 1,
            "processes": 1,
            "precision": "no",
        },
        "data": {"sha256": {name: f"{name} hash" for name in ("train_split.csv", "val_split.csv", "test_split.csv")}},
        "plan": {"image_size": 224},
        "cost": {"micro_batch": 16, "parameters": {"trainable": 0 if method == "zero_shot" else 1000}},
        "history": [] if method == "zero_shot" else [{"epoch": 3, "step": 105}],
        "search": {"rates": [1e-4, 1e-3, 1e-2]},
    }
    for path, value in changes.items():
        *parts, last = path.split("__")
        place = record
        for part in parts:
            place = place[part]
        place[last] = value
    return record


def by_name(findings):
    return {mismatch.name: mismatch for mismatch in findings}


def test_method_seed_and_place_are_no_findings():
    assert mismatches([run("full"), run("lora"), run("lora", 1), run("zero_shot")]) == []
    assert mismatches([run()]) == mismatches([]) == []


def test_lora_needs_more_memory_than_full_is_not_comparable_by_name():
    """Measured at batch 16 without checkpointing against batch 4 with it."""
    lora = run("lora", config__train__gradient_checkpointing=False)
    full = run("full", config__train__batch_size=4, cost__micro_batch=4, config__train__gradient_checkpointing=True)
    differing = mismatches([lora, full])
    assert verdict(differing, "memory") == (
        "memory is not comparable: rows at a time 16 (lora), 4 (full); gradient checkpointing off (lora), on (full)"
    )
    assert [mismatch.name for mismatch in barring(differing, "memory")] == ["rows at a time", "gradient checkpointing"]
    assert "batch size 16 (lora), 4 (full)" in verdict(differing, "quality")
    assert "gradient checkpointing" in verdict(differing, "time")
    assert ranked(differing)
    assert by_name(differing)["rows at a time"].sentence == (
        "rows at a time: 16 (lora), 4 (full); time and memory are not comparable."
    )


def test_the_trap_is_seen_where_only_the_batch_is_recorded():
    bare = [{"config": config(batch, method, 0)} for batch, method in ((16, "lora"), (4, "full"))]
    assert "rows at a time 16 (lora), 4 (full)" in verdict(mismatches(bare), "memory")


def test_equal_rows_at_a_time_bear_a_claim_about_memory_whatever_the_batch():
    """Losses of four rows at a time that add up to a step of 16 need the memory of four."""
    summed = run("lora", cost__micro_batch=4, config__train__micro_batch=4)
    plain = run("full", config__train__batch_size=4, cost__micro_batch=4)
    differing = mismatches([summed, plain])
    assert verdict(differing, "memory") is None
    assert verdict(differing, "quality") is not None
    two = run("lora", config__train__batch_size=8, environment__processes=2)
    one = run("full", config__train__batch_size=4)
    for record in (two, one):
        del record["cost"]["micro_batch"]
    assert "rows at a time" not in by_name(mismatches([two, one]))


@pytest.mark.parametrize("key", ["config__tuning__gradient_checkpointing", "environment__checkpointing"])
def test_checkpointing_is_read_from_any_part_of_a_record(key):
    differing = mismatches([run("lora", **{key: True}), run("full", **{key: False})])
    assert [mismatch.name for mismatch in differing] == ["gradient checkpointing"]
    assert differing[0].concerns == ("time", "memory")
    half = mismatches([run("lora", **{key: True}), run("full")])
    assert half[0].values == (True, NOT_RECORDED)
    assert half[0].values_text == "on (lora), not recorded (full)"


@pytest.mark.parametrize(
    ("change", "name", "barred"),
    [
        ({"config__head__name": "report"}, "task", {"quality", "time", "memory"}),
        ({"data__sha256": {"test_split.csv": "other"}}, "test split", {"quality", "time", "memory"}),
        ({"config__train__precision": "bf16"}, "precision", {"quality", "time", "memory"}),
        ({"plan__image_size": 448}, "image size", {"quality", "time", "memory"}),
        ({"config__head__max_tokens": 64}, "head.max_tokens", {"quality", "time", "memory"}),
        ({"config__train__epochs": 5}, "epochs", {"quality", "time"}),
        ({"history": [{"step": 99}]}, "steps", {"quality", "time"}),
        ({"config__data__augment": "mild"}, "data.augment", {"quality"}),
        ({"config__data__uncertain": 0.5}, "data.uncertain", {"quality"}),
        ({"config__train__clip": 9.0}, "train.clip", {"quality"}),
        ({"search": {"rates": [1e-3]}}, "learning rates tried", {"quality"}),
        ({"environment__device": "cpu"}, "device", {"time", "memory"}),
        ({"environment__threads": 8}, "threads", {"time"}),
        ({"environment__processes": 2}, "processes", {"time", "memory"}),
        ({"environment__packages": {"torch": "2.9.0"}}, "environment.packages.torch", {"quality", "time", "memory"}),
        ({"environment__commit": "def"}, "environment.commit", set()),
    ],
)
def test_each_difference_bars_what_rests_on_it(change, name, barred):
    differing = by_name(mismatches([run("full"), run("lora", **change)]))
    assert name in differing
    assert {claim for claim in ("quality", "time", "memory") if barring([differing[name]], claim)} == barred
    others = set(differing) - {name}
    assert others <= {"train split", "val split"}  # of the run whose hashes are all new


def test_runs_over_different_test_sets_are_not_ranked():
    other = run("lora")
    other["data"]["sha256"]["test_split.csv"] = "other hash"
    differing = mismatches([run("full"), other])
    assert not ranked(differing)
    assert differing[0].sentence.endswith("these runs are not ranked.")
    train = run("lora")
    train["data"]["sha256"]["train_split.csv"] = "other hash"
    assert ranked(mismatches([run("full"), train]))
    assert [mismatch.name for mismatch in mismatches([run("full"), train])] == ["train split"]


def test_a_test_file_of_another_name_counts_too():
    named = [run("full", data__sha256={"held_out.csv": digest}) for digest in ("a", "b")]
    assert not ranked(mismatches(named))
    assert ranked(mismatches([named[0], named[0]]))


def test_a_split_in_a_folder_is_the_same_split():
    named = run("lora")
    named["data"]["sha256"] = {f"folder/{name}": value for name, value in named["data"]["sha256"].items()}
    assert mismatches([run("full"), named]) == []


def test_the_tuning_budget():
    unknown = run("full")
    del unknown["search"]
    differing = mismatches([unknown, run("lora")])
    assert differing[0].values_text == "not recorded (full), 3 (lora)"
    assert verdict(differing, "quality") == (
        "quality is not comparable: learning rates tried not recorded (full), 3 (lora)"
    )
    (silent,) = mismatches([unknown, {**run("lora"), "search": None}])
    assert silent.sentence == "learning rates tried: not recorded for any run."
    assert verdict([silent], "quality") is None


def test_training_s_settings_do_not_apply_to_what_is_not_trained():
    shot = run("zero_shot", config__train__batch_size=64, config__train__clip=0.5, cost__micro_batch=64)
    assert mismatches([shot, run("lora")]) == []
    (device,) = mismatches([run("zero_shot", environment__device="cpu"), run("lora")])
    assert device.name == "device"


def test_seeds_of_a_variant_are_named_once_and_long_values_are_cut():
    runs = [run("lora"), run("lora", 1), run("full", data__sha256={"test_split.csv": "0123456789" * 6})]
    text = mismatches(runs, ["LoRA r8", "LoRA r8", "full"])[0].values_text
    assert text == "test_split.csv hash (LoRA r8), 01234567… (full)"


def test_records_with_little_in_them_do_not_fail():
    assert [f.name for f in mismatches([{}, {}])] == ["learning rates tried"]
    assert not ranked(mismatches([{}, run()]))
    assert "run 1" in mismatches([{}, run()])[0].values_text


def test_records_are_left_as_they_are():
    runs = [run("lora"), run("full", environment__device="cpu")]
    before = copy.deepcopy(runs)
    mismatches(runs)
    assert runs == before
    assert dict(flatten({"a": {"b": 1}, "c": 2})) == {"a.b": 1, "c": 2}
