"""Pictures of one group never stand in two splits."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import load_config
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold
from test_lists import FAST, folder, picture, pictures
from test_table import listed, table_of

from nanocnn.config.schema import Data
from nanocnn.images.carving import list_training
from nanocnn.images.groups import groups_by_pattern, hold_out_groups
from nanocnn.images.splits import load_splits
from nanocnn.system.errors import UserError


def patients(root, count=20, each=6):
    """root/class/pN_n.png: `each` pictures of each patient, in two classes."""
    for patient in range(count):
        for number in range(each):
            name = ("ill", "well")[(patient + (number == 0)) % 2]
            picture(root / name / f"p{patient}_{number}.png", patient * 100 + number)
    return root


def groups_of(splits, pattern):
    """{split: groups} of what list_training gives, that of test.py too."""
    paths = {name: listing.paths for name, listing in splits.items()}
    paths["test"] = [path for path, _ in splits["train"].held_out]
    return {name: set(groups_by_pattern(pattern, some)) for name, some in paths.items() if some}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_group_of_any_table_stands_in_two_splits(tmp_path_factory, data):
    """And of each class there is something to train on."""
    count = data.draw(st.integers(12, 60))
    people = data.draw(st.integers(3, 15))
    rows = [
        [f"{n}.png", data.draw(st.sampled_from("abc")), f"ü {data.draw(st.integers(1, people))}"]
        for n in range(count)
    ]
    root = table_of(tmp_path_factory.mktemp("table"), rows, ["file", "kind", "who"])
    options = {"test": data.draw(st.sampled_from([None, 0.1, 0.5, 3]))}
    options |= {"validation": data.draw(st.sampled_from([0.1, 0.4, 2]))}
    source = listed(root, columns={"group": "who"}, **options)
    try:
        splits = list_training(source, data.draw(st.integers(0, 9)), None)
    except UserError as error:
        assert re.search("the only group of a class|is the group of|less than one", str(error))
        return
    who = {row[0]: row[2] for row in rows}
    parts = [{who[path] for path in listing.paths} for listing in splits.values()]
    parts.append({who[path] for path, _ in splits["train"].held_out})
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(set(who.values()))
    assert all(parts) and set(splits["train"].labels.tolist()) == set(range(len(
        {row[1] for row in rows})))  # fmt: skip


def test_groups_are_kept_together_and_the_test_ones_whatever_the_seed(tmp_path, script):
    root = patients(tmp_path / "my")
    pattern = r"(p\d+)_\d+\.png$"
    data = folder(root, group=pattern)
    found = [groups_of(list_training(data, seed, None), pattern) for seed in (0, 1)]
    for parts in found:
        assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 20
        assert {name: len(part) for name, part in parts.items()} == {
            "train": 14, "val": 2, "test": 4,
        }  # fmt: skip
    assert found[0]["test"] == found[1]["test"] and found[0]["val"] != found[1]["val"]
    source = ["data.dataset=folder", f"data.root={root}", f"data.group='{pattern}'", *FAST]
    done = script("train.py", *source, "--run-dir", "run")
    assert done.code == 0 and "groups: 14 train, 2 val, none of them in two" in done.out, done.error
    assert script("test.py", "--ckpt", "run").code == 0


def test_a_limit_leaves_groups_whole_on_either_side(tmp_path):
    root = patients(tmp_path / "my")
    pattern = r"(p\d+)_"
    parts = groups_of(list_training(folder(root, group=pattern, limit=50), 3, None), pattern)
    assert sum(map(len, parts.values())) == len(set.union(*parts.values()))


def test_a_column_of_groups_is_named_in_either_way(tmp_path):
    rows = [[f"{n}.png", "ab"[n % 2], f"p{n // 4}"] for n in range(80)]
    root = table_of(tmp_path, rows, ["file", "kind", "who"])
    one = list_training(listed(root, columns={"group": "who"}), 0, None)
    other = list_training(listed(root, group="who"), 0, None)
    assert one["train"].paths == other["train"].paths
    with pytest.raises(UserError, match=r"neither a column of .*kind, who\) nor a pattern with on"):
        list_training(listed(root, group="whom"), 0, None)
    rows[3][2] = ""
    table_of(tmp_path, rows, ["file", "kind", "who"])
    with pytest.raises(UserError, match=r"line 5: has no group \('who'\)"):
        list_training(listed(root, group="who"), 0, None)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_group_in_two_splits_of_ones_own_is_refused(tmp_path, split):
    root = pictures(tmp_path, {"a": 9, "b": 9})
    picture(root / split / "a" / "99.png", 5)
    data = folder(root, group=r"(\d+)\.png")
    assert list_training(data, 0, None)
    picture(root / split / "b" / "7.png", 6)
    message = rf"data\.group: 1 groups stand in (train and in {split}|{split} and in train): 7; "
    with pytest.raises(UserError, match=message):
        load_splits(data, 0)


def test_groups_that_cannot_be_are_refused(tmp_path, capsys):
    root = patients(tmp_path / "my", count=3)
    with pytest.raises(UserError, match=r"finds no group in 18 of 18 paths: ill/p0_1"):
        list_training(folder(root, group=r"(q\d+)"), 0, None)
    with pytest.raises(UserError, match="finds no group in 6 of 18 paths"):
        list_training(folder(root, group=r"p([01])_"), 0, None)
    with pytest.raises(UserError, match="'p' is the group of 18 of 18 images"):
        list_training(folder(root, group=r"(p)"), 0, None)
    assert "group of its own" not in capsys.readouterr().err
    list_training(folder(root, group=r"([^/]+)\.png"), 0, None)
    assert "each of 18 images is a group of its own" in capsys.readouterr().err
    for pattern, message in {"(": "no regular expression", "p": "has 0", "(a)(b)": "has 2"}.items():
        with pytest.raises(UserError, match=message):
            load_config("digits.yaml", [f"data={{dataset: folder, group: '{pattern}'}}"])
    with pytest.raises(UserError, match=r"data\.group = \(x\): cannot act on digits"):
        load_config("digits.yaml", ["data.group=(x)"])


def test_large_groups_are_told_where_they_change_the_share(tmp_path, capsys):
    root = patients(tmp_path, count=3, each=20)
    data = folder(root, group=r"(p\d+)_", validation=0)
    assert len(list_training(data, 0, None)["train"].held_out) == 20
    list_training(data.model_copy(update={"test": 0.1}), 0, None)
    assert "data.test: 20 images are held out instead of 6" in capsys.readouterr().err


def test_classes_have_about_their_share_as_scikit_learn_gives_it():
    """Means over draws of what each class is off its share, in images."""
    ours, theirs = [], []
    for seed in range(12):
        generator = np.random.default_rng(seed)
        numbers = generator.integers(0, 60, 900)
        usual = generator.integers(0, 5, 60)
        labels = np.where(generator.random(900) < 0.5, usual[numbers],
                          generator.integers(0, 5, 900))  # fmt: skip
        groups = [str(number) for number in numbers]
        order = [str(number) for number in generator.permutation(60)]
        wanted = np.bincount(labels) / 5
        _, held_out = hold_out_groups(torch.from_numpy(labels), 180, groups, order)
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        fold = next(folds.split(labels, labels, numbers))[1]
        for found, chosen in ((ours, held_out.numpy()), (theirs, fold)):
            found.append(np.abs(np.bincount(labels[chosen], minlength=5) - wanted).mean())
    assert np.mean(ours) < 1.2 * np.mean(theirs), (np.mean(ours), np.mean(theirs))


def test_training_opens_no_picture_of_a_held_out_group(tmp_path, script):
    root = patients(tmp_path / "my")
    pattern = r"(p\d+)_"
    for path, _ in list_training(folder(root, group=pattern), 0, None)["train"].held_out:
        (root / path).write_bytes(b"no picture")
    source = ["data.dataset=folder", f"data.root={root}", f"data.group={pattern}", *FAST]
    done = script("train.py", *source, "data.skip_unreadable=true", "--run-dir", "run")
    assert done.code == 0 and not Path("run/unreadable.txt").exists(), done.error


def test_train_csv_takes_a_pattern_too(tmp_path):
    lines = [f"p{n // 5}/{n}.png,{'ab'[n % 2]}" for n in range(60)]
    (tmp_path / "train.csv").write_text("\n".join(["path,label", *lines, ""]))
    data = Data(dataset="csv", root=str(tmp_path), group="^(p[0-9]+)/")
    parts = groups_of(list_training(data, 0, None), "^(p[0-9]+)/")
    assert len(parts["train"]) + len(parts["val"]) == 12 and not parts["train"] & parts["val"]


# groups together with other options


@pytest.mark.parametrize(
    "changes",
    [
        {"limit": 60}, {"test": 20}, {"validation": 15}, {"limit": 40, "test": 0.3},
        {"sampling": "balanced"}, {"skip_unreadable": True},
    ],
)  # fmt: skip
def test_groups_stay_together_under_other_options(tmp_path, changes):
    root = patients(tmp_path)
    if "skip_unreadable" in changes:
        (root / "ill" / "p3_9.png").write_bytes(b"no picture")
    pattern = r"/p(\d+)_"
    splits = list_training(folder(root, group=pattern, **changes), 0, None)
    groups = list(groups_of(splits, pattern).values())
    assert len(groups) == 3 and len(set.union(*groups)) == sum(map(len, groups))
    if limit := changes.get("limit"):
        assert sum(len(part.paths) for part in splits.values()) == limit
