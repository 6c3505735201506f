"""The user's own images: how they are listed, whole runs with them, and runs that stream them."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import load_config
from PIL import Image, ImageDraw

from nanocnn.config.schema import Augment, Data
from nanocnn.images.batches import Batches
from nanocnn.images.content import read_hashes
from nanocnn.images.listing import list_split
from nanocnn.images.places import natural
from nanocnn.images.splits import (
    class_names,
    data_info,
    image_hashes,
    image_shape,
    load_splits,
    load_test,
)
from nanocnn.images.stream import Stream
from nanocnn.run.checkpoint import load_checkpoint
from nanocnn.system.errors import UserError

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
STREAMED = {"memory_limit": 1, "cache": False}  # by other processes


def folder(root, **changes):
    return Data(dataset="folder", root=str(root), **changes)


def assert_equal_splits(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name].images, second[name].images)
        assert torch.equal(first[name].labels, second[name].labels)


def test_names_are_sorted_as_people_count():
    names = ["10", "9", "a10b2", "a2", "a10b10", "2", "01", "1", "a", "é 3", "9" * 5000]
    in_order = ["01", "1", "2", "9", "10", "9" * 5000, "a", "a2", "a10b2", "a10b10", "é 3"]
    assert sorted(names, key=natural) == in_order


def test_a_folder_lists_its_classes_and_leaves_hidden_names_alone(digit_pictures):
    root = digit_pictures({"train": 30, "val": 6}, classes=2)
    (root / "train" / "digit 1").rename(root / "train" / "digit 10")
    (root / "train" / "digit 0").rename(root / "train" / "digit 9")
    shutil.rmtree(root / "val")
    (root / "train" / ".hidden").mkdir()
    (root / "train" / ".DS_Store").write_bytes(b"x")
    (root / "train" / "digit 9" / ".DS_Store").write_bytes(b"x")
    listing = list_split(folder(root), "train")
    assert listing.classes == ["digit 9", "digit 10"] == class_names(folder(root))
    assert len(listing.paths) == 30
    for path, label in zip(listing.paths, listing.labels.tolist(), strict=True):
        assert path.split("/")[:2] == ["train", listing.classes[label]]
    of_nines = [int(Path(path).stem) for path in listing.paths if "digit 9" in path]
    assert of_nines == sorted(of_nines) and max(of_nines) >= 10


def test_a_csv_file_gives_the_same_as_a_folder(digit_pictures):
    root = digit_pictures({"train": 40, "test": 10})
    for split in ("train", "test"):
        listing = list_split(folder(root), split)
        pairs = zip(listing.paths, listing.labels.tolist(), strict=True)
        lines = [f'"{path}",{listing.classes[label]}' for path, label in pairs]
        text = "\n".join(["path,label", *lines, ""]).replace("test/", "others/")
        (root / f"{split}.csv").write_text(text, encoding="utf-8-sig")
    shutil.copytree(root / "test", root / "others")
    in_csv = folder(root).model_copy(update={"dataset": "csv"})
    assert_equal_splits(load_splits(folder(root), 0), load_splits(in_csv, 0))
    info = data_info(folder(root), load_splits(folder(root), 0)["train"])
    assert torch.equal(load_test(folder(root), info).images, load_test(in_csv, info).images)
    assert class_names(in_csv) == ["digit 0", "digit 1", "digit 2"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", r"begins with ''.*path,label"),
        ("file,label\na.png,a", "begins with 'file,label'"),
        ("path,label\n\n../a.png,a", r"line 3: '\.\./a\.png' leaves data\.root"),
        ("path,label\nb/../../a.png,a", "leaves"),
        ("path,label\n/etc/a.png,a", "leaves"),
        ("path,label\ntest/a.png,a", "training never opens"),
        ("path,label\na.png", "line 2: 'a.png' is no path,label"),
        ("path,label\na.png,", "line 2"),
        ("path,label\na.png,a,b", "line 2"),
        ('path,label\n"a.png,a', "no CSV file"),
        ("path,label\n", "holds no images"),
        ('path,label\na.png,"a\nb"', "cannot be printed"),
    ],
)
def test_a_bad_csv_file_is_refused_with_the_line(tmp_path, text, message):
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(UserError, match=rf"train\.csv.*{message}"):
        load_splits(Data(dataset="csv", root=str(tmp_path)), 0)


def test_validation_is_carved_or_lies_beside_the_training_images(digit_pictures):
    root = digit_pictures({"train": 60, "val": 9, "test": 3})
    splits = load_splits(folder(root), 0)
    assert {name: len(split.labels) for name, split in splits.items()} == {"train": 60, "val": 9}
    assert all(path.startswith("val/") for path in splits["val"].files.paths)
    with pytest.raises(UserError, match=r"data\.validation = 5: cannot act.*val split of its own"):
        load_splits(folder(root, validation=5), 0)
    assert len(load_splits(folder(root, limit=30), 0)["train"].labels) == 30
    shutil.rmtree(root / "val")
    splits = load_splits(folder(root, validation=12), 3)
    assert {name: len(split.labels) for name, split in splits.items()} == {"train": 48, "val": 12}
    assert splits["val"].labels.bincount().tolist() == [4, 4, 4]
    paths = [path for split in splits.values() for path in split.files.paths]
    assert len(set(paths)) == 60


def test_colour_and_size_are_those_of_the_training_images(digit_pictures):
    root = digit_pictures({"train": 20}, size=30)
    assert load_splits(folder(root), 0)["train"].images.shape[1:] == (1, 30, 30)
    assert image_shape(folder(root)) == (1, 30, 30)
    in_colour = load_splits(folder(root, channels=3, image_size=8), 0)["train"].images
    assert in_colour.shape[1:] == (3, 8, 8) and torch.equal(in_colour[:, 0], in_colour[:, 2])
    for path in root.rglob("*.*g"):
        Image.open(path).resize((40, 30)).save(path)
    assert load_splits(folder(root), 0)["train"].images.shape[1:] == (1, 30, 40)
    odd = next(root.rglob("*.png"))
    Image.new("RGB", (30, 30), "red").save(odd)
    with pytest.raises(UserError, match=r"data\.image_size = null.* pixels, others have"):
        load_splits(folder(root), 0)
    assert image_shape(folder(root, image_size=20)) == (3, 20, 20)
    (root / "val" / "digit 0").mkdir(parents=True)
    odd.rename(root / "val" / "digit 0" / "red.png")
    splits = load_splits(folder(root, image_size=20), 0)
    assert splits["val"].images.shape[1:] == (1, 20, 20), "val says nothing of training"
    with pytest.raises(UserError, match=r"red\.png has 30x30 pixels, others have 30x40"):
        load_splits(folder(root), 0)


KEYS = {
    "data.channels=1": "data.channels = 1: cannot act on digits",
    "data.resize=pad": "data.resize = pad: cannot act on digits",
    "data.skip_unreadable=true": "data.skip_unreadable = true: cannot act on digits",
    "data={dataset: folder, resize: crop}": "data.resize = crop: cannot act without",
    "data={dataset: folder, channels: 2}": "data.channels = 2 is unknown (known: 1 or 3)",
    "data={dataset: folder, memory_limit: 4G}": "data.memory_limit = 4G",
    "data={dataset: folder, memory_limit: 0}": "data.memory_limit = 0",
    "data.list=meta.csv": "data.list = meta.csv: cannot act on digits, only where data.dataset is",
    "data.columns.label=kind": "data.columns = {path: path, label: kind}: cannot act without",
    "data.extension=.jpg": "data.extension = .jpg: cannot act without data.list",
    "data={dataset: csv, list: x, extension: jpg}": "data.extension = jpg: should be one such as",
    "data={dataset: csv, list: x, delimiter: ab}": "data.delimiter = 'ab': should be one character",
    "data={dataset: csv, list: x, encoding: utf-88}": "data.encoding = utf-88: should be one such",
    "data={dataset: folders}": "did you mean 'folder'",
}


@pytest.mark.parametrize("override", KEYS)
def test_a_key_that_cannot_act_is_refused(override):
    with pytest.raises(UserError, match=re.escape(KEYS[override])):
        load_config("digits.yaml", [override])


def test_sizes_of_memory():
    limits = {"500MB": 500_000_000, "4GB": 4_000_000_000, "10KB": 10_000, 77: 77}
    for limit, size in limits.items():
        assert folder("x", memory_limit=limit).memory_bytes == size


def in_16_bits(picture):
    return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)


@pytest.fixture(scope="module")
def odd_pictures(tmp_path_factory):
    """A folder of real digits and of drawn shapes, as files of every kind that people have."""
    root = tmp_path_factory.mktemp("odd") / "my pictures"
    generator = np.random.default_rng(0)
    for split, count in {"train": 20, "test": 8}.items():
        for number in range(count):
            for name in ("círculo", "square 2", "square 10"):
                side = int(generator.integers(24, 60))
                picture = Image.new("RGB", (side, side + number), (10, 40, 90))
                draw = ImageDraw.Draw(picture)
                box = [side // 4, side // 4, side * 3 // 4, side * 3 // 4]
                if name == "círculo":
                    draw.ellipse(box, "white")
                elif name == "square 2":
                    draw.rectangle(box, "red")
                else:
                    draw.rectangle(box, outline="yellow", width=2)
                target = root / split / name
                target.mkdir(parents=True, exist_ok=True)
                tags = Image.Exif()
                tags[274] = number % 8 + 1
                stem = target / f"bild {number} ü"
                kinds = [
                    ("png", picture, {}),
                    ("jpg", picture, {"exif": tags}),
                    ("gif", picture.quantize(16), {}),
                    ("jpeg", picture.convert("CMYK"), {}),
                    ("webp", picture.convert("RGBA"), {}),
                    ("png", picture.convert("L"), {}),
                    ("bmp", picture.convert("1"), {}),
                    ("tif", in_16_bits(picture), {}),
                ]
                suffix, converted, options = kinds[number % len(kinds)]
                converted.save(f"{stem}.{suffix}", **options)
    return root


def odd_options(root, run):
    """A short run on `odd_pictures`."""
    return [
        "data.dataset=folder", f"data.root='{root}'", "data.image_size=24", "data.resize=pad",
        "data.augment.shift=1", "train.batch_size=16", "train.epochs=3", "--run-dir", run,
    ]  # fmt: skip


def test_odd_pictures_train_and_test_in_memory_and_streamed_alike(odd_pictures, script):
    trained = script("train.py", *odd_options(odd_pictures, "memory"))
    assert trained.code == 0, trained.error
    assert "folder: 54 train and 6 val images of 3x24x24" in trained.out
    assert "train: círculo 18, square 2 18, square 10 18" in trained.out
    assert re.search(r"files of 2\dx2\d to \d\dx\d\d pixels", trained.out)
    options = odd_options(odd_pictures, "streamed")
    streamed = script("train.py", *options, "data.memory_limit=10KB", "data.cache=false")
    assert streamed.code == 0, streamed.error
    assert "read batch by batch" in streamed.out

    first, second = (load_checkpoint(Path(run, "last.pt")) for run in ("memory", "streamed"))
    assert first["data"] == second["data"] and first["data_sha256"] == second["data_sha256"]
    for key, tensor in first["model"].items():
        assert torch.equal(tensor, second["model"][key]), key

    # test.py needs the checkpoint and the images only, wherever they are
    shutil.copytree(odd_pictures / "test", "elsewhere/test")
    for run in ("memory", "streamed"):
        Path(run, "config.yaml").unlink()
        tested = script(
            "test.py", "--ckpt", run, "--data-root", "elsewhere", "--json", f"{run}.json"
        )
        assert tested.code == 0, tested.error
    reports = [json.loads(Path(f"{run}.json").read_text()) for run in ("memory", "streamed")]
    assert reports[0]["confusion"] == reports[1]["confusion"] and reports[0]["n"] == 24
    assert [row["name"] for row in reports[0]["per_class"]] == ["círculo", "square 2", "square 10"]
    assert script("test.py", "--ckpt", "memory", "--data-root", "nowhere").error.startswith(
        "error: nowhere: no such folder"
    )


def test_streamed_batches_are_those_of_the_memory(odd_pictures):
    """In order, shuffled, from the middle, after a pass that was left, and from a generator of its
    own.
    """
    data = folder(odd_pictures, image_size=20, resize="crop", validation=0)
    splits = load_splits(data, 0), load_splits(data.model_copy(update=STREAMED), 0)
    assert isinstance(splits[1]["train"].images, Stream)
    info = data_info(data, splits[0]["train"])
    assert info == data_info(data, splits[1]["train"])
    memory, streamed = (Batches(split["train"], info, 7, CPU) for split in splits)
    assert len(memory) == len(streamed) == 9
    torch.manual_seed(0)
    undisturbed = torch.rand(3)
    torch.manual_seed(0)
    next(iter(streamed))  # starts the workers
    assert torch.equal(torch.rand(3), undisturbed)
    for first, second in zip(memory, streamed, strict=True):
        assert all(map(torch.equal, first, second))
    for epoch, start in ((0, 0), (3, 4)):
        arguments = (11, epoch, Augment(shift=3), start)
        pairs = zip(memory.shuffled(*arguments), streamed.shuffled(*arguments), strict=True)
        for (step, *first), (other_step, *second) in pairs:
            assert step == other_step and all(map(torch.equal, first, second))
    assert len(list(streamed)) == 9

    passing = iter(streamed)
    next(passing)
    next(iter(streamed))
    with pytest.raises(AssertionError, match="another pass"):
        next(passing)


def test_a_file_that_goes_while_it_is_streamed_ends_the_run(digit_pictures):
    root = digit_pictures({"train": 12})
    data = folder(root, validation=0, **STREAMED)
    split = load_splits(data, 0)["train"]
    (root / split.files.paths[5]).unlink()
    with pytest.raises(UserError, match=rf"{split.files.paths[5]}.*when the run began.*No such"):
        list(Batches(split, data_info(data, split), 4, CPU))


def test_a_run_begun_in_memory_goes_on_streamed_to_the_same_weights(odd_pictures, script):
    constant = "schedule={name: constant}"
    assert script("train.py", *odd_options(odd_pictures, "once"), constant).code == 0
    begun = odd_options(odd_pictures, "begun")
    assert script("train.py", *begun, constant, "train.epochs=2").code == 0
    limits = ["data.memory_limit=10KB", "data.cache=false"]
    resumed = script("train.py", "--resume", "begun", *limits, "train.epochs=3")
    assert resumed.code == 0 and "read batch by batch" in resumed.out, resumed.error
    first, second = (load_checkpoint(Path(run, "last.pt"))["model"] for run in ("begun", "once"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_signal_to_all_processes_leaves_the_workers_to_the_main_one(digit_pictures):
    """As Ctrl-C does: it is for the main process to end the step, save and end them."""
    data = folder(digit_pictures({"train": 40}), validation=0, **STREAMED)
    split = load_splits(data, 0)["train"]
    before = {child.pid for child in multiprocessing.active_children()}
    batches = iter(Batches(split, data_info(data, split), 4, CPU))
    next(batches)
    workers = {child.pid for child in multiprocessing.active_children()} - before
    for _ in workers:
        next(batches)  # so that each has begun
    for worker in workers:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(worker, number)
    assert workers and len(list(batches)) == 9 - len(workers)


def test_images_in_two_splits_are_found_by_their_pixels(digit_pictures, script):
    root = digit_pictures({"train": 40, "val": 9, "test": 12})
    originals = sorted(root.glob("train/*/*.png"))[:5]
    for number, path in enumerate(originals):  # other names, one even another format
        split = "val" if number < 2 else "test"
        copy = root / split / path.parent.name / f"copy {number}"
        Image.open(path).save(f"{copy}.{'bmp' if number % 2 else 'png'}")
    options = ["data.dataset=folder", f"data.root={root}", "train.epochs=1", "--run-dir", "run"]
    trained = script("train.py", *options)
    assert trained.code == 0
    assert "warning: 2 validation images have the pixels of a training image" in trained.error
    assert "copy 0.png, as train/" in trained.error
    kept = read_hashes(Path("run/train_hashes.txt"))
    assert kept == image_hashes(load_splits(folder(root), 0)["train"]) and len(kept) == 40
    tested = script("test.py", "--ckpt", "run", "--json", "-")
    assert "warning: run/best.pt: trained on 3 of these 15 images" in tested.error
    assert json.loads(tested.out)["trained_on"] == 3
    Path("run/train_hashes.txt").write_text("no hash\n")
    tested = script("test.py", "--ckpt", "run")
    assert tested.code == 2 and "train_hashes.txt: damaged" in tested.error


def test_the_hashes_of_a_published_data_set_are_kept_too(digits_run, script):
    hashes = read_hashes(digits_run / "train_hashes.txt")
    splits = load_splits(Data(), 0)
    assert hashes == image_hashes(splits["train"]) and len(hashes) == 1294
    assert json.loads(script("test.py", "--ckpt", digits_run, "--json", "-").out)["trained_on"] == 0


opened = []
sys.addaudithook(lambda event, arguments: opened and opened.append(str(arguments)))


@pytest.mark.parametrize("dataset", ["folder", "csv"])
def test_training_never_opens_the_test_split(digit_pictures, script, dataset):
    root = digit_pictures({"train": 30, "test": 10})
    (root / "train.csv").write_text(
        "path,label\n"
        + "".join(
            f"{path.relative_to(root)},{path.parent.name}\n" for path in root.glob("train/*/*")
        )
    )
    (root / "test.csv").write_text("garbage")
    for path in root.glob("test/*/*"):
        path.write_bytes(b"garbage")
    options = [f"data.dataset={dataset}", f"data.root={root}", "train.epochs=1"]
    opened.append("the hook listens while there is something here")
    try:
        assert script("train.py", *options, "--run-dir", "run").code == 0
        assert script("test.py", "--ckpt", "run", "--split", "val").code == 0
        assert any(f"{root}/train" in event for event in opened)
        assert not [event for event in opened if f"{root}/test" in event]
    finally:
        opened.clear()
    tested = script("test.py", "--ckpt", "run")
    assert tested.code == 2 and f"{root}" in tested.error and tested.error.count("\n") == 1


def test_the_layer_table_knows_own_images(digit_pictures, script):
    root = digit_pictures({"train": 10}, classes=4)
    options = ["data.dataset=folder", f"data.root={root}", "data.channels=3"]
    printed = script("model.py", *options)
    assert printed.code == 0 and "3x28x28" in printed.out, printed.error
    assert re.search(r"Linear +4 +516 ", printed.out)
    missing = script("model.py", "data.dataset=folder", "data.root=nowhere")
    assert missing.code == 2 and "data.root = nowhere: no such folder" in missing.error


def test_many_classes_are_counted_in_one_line(digit_pictures, script):
    root = digit_pictures({"train": 10}, classes=2)
    for number in range(30):
        shutil.copytree(root / "train" / "digit 0", root / "train" / f"kind {number}")
    (root / "train" / "kind 7" / "0.png").unlink()
    options = ["data.dataset=folder", f"data.root={root}", "data.validation=0", "train.epochs=1"]
    trained = script("train.py", *options)
    assert "train: 32 classes, from kind 7 4 to digit 0 5 images" in trained.out


def test_validation_takes_no_class_its_only_image(digit_pictures, script):
    """Of a class with one image none was trained on, and none of it was ever predicted."""
    root = digit_pictures({"train": 60})
    for path in sorted((root / "train" / "digit 1").iterdir())[1:]:
        path.unlink()
    for seed in range(12):  # in some of which it would be held out
        data = folder(root).model_copy(update={"validation": 0.5})
        splits = load_splits(data, seed)
        assert set(splits["train"].labels.tolist()) == {0, 1, 2}
        assert 1 not in splits["val"].labels
        assert sum(len(split.labels) for split in splits.values()) == len(list(root.rglob("*.*g")))
    options = ["data.dataset=folder", f"data.root={root}", "train.epochs=1"]
    done = script("train.py", *options, "--dry-run")
    assert done.code == 0
    assert "1 of 3 classes have no image in val and are not validated: digit 1" in done.error


def test_a_limit_that_leaves_classes_out_is_told(script):
    done = script("train.py", "data.limit=8", "data.validation=0", "--dry-run")
    assert done.code == 0 and "classes have no image in train and are never learned" in done.error


def test_a_validation_that_could_only_take_the_last_of_a_class_is_refused(digit_pictures):
    root = digit_pictures({"train": 12})
    for digit in range(3):
        for path in sorted((root / "train" / f"digit {digit}").iterdir())[1:]:
            path.unlink()
    with pytest.raises(UserError, match="takes the only image of a class"):
        load_splits(folder(root).model_copy(update={"validation": 1}), 0)
