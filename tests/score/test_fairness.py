"""What differs between runs besides the method."""

from cxr_ft.score.fairness import ABSENT, differences


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
