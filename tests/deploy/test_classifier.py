"""nanocnn.load: what a classifier says of pictures, however they are given to it."""

import csv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from conftest import NETWORKS, load_config, small
from PIL import Image

import nanocnn
from nanocnn.deploy.classifier import classifier_of
from nanocnn.images.new_pictures import Unreadable, form_for, read
from nanocnn.images.training_data import TrainingData
from nanocnn.networks.head import linear_head
from nanocnn.run.restore import restore


@pytest.fixture(scope="module")
def classifier(judging_run):
    return nanocnn.load(judging_run, device="cpu", networks=NETWORKS)


def saved(images, folder, change=lambda picture: picture, suffix="png"):
    """Files of the pictures, each changed first; their paths."""
    paths = [folder / f"{place:03}.{suffix}" for place in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        change(Image.fromarray(image)).save(path)
    return paths


def right(classifier, paths, labels):
    found = classifier.predict(paths)
    return np.mean([int(each.label) == label for each, label in zip(found, labels, strict=True)])


def test_a_png_of_a_test_image_is_read_as_its_very_pixels(classifier, test_digits, tmp_path):
    images = test_digits[0][:20]
    for path, image in zip(saved(images, tmp_path), images, strict=True):
        given = read(path, classifier.form)
        assert np.array_equal(given.pixels[0], image) and given.box == (0, 0, 28, 28)


def test_probabilities_are_those_of_test_py(script, judging_run, classifier, test_digits, tmp_path):
    done = script("test.py", "--ckpt", judging_run, "--predictions", "out.csv")
    assert done.code == 0, done.error
    _, *rows = csv.reader(Path("out.csv").read_text().splitlines())
    found = classifier.probabilities(saved(test_digits[0], tmp_path))
    assert found.shape == (359, 10)
    assert np.allclose(found, np.array([row[4:] for row in rows], dtype=float), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "suffix"),
    [
        (lambda picture: Image.eval(picture, lambda level: 255 - level), "jpg"),
        (lambda picture: picture.resize((90, 90)), "png"),
        (lambda picture: picture.convert("RGB"), "bmp"),
        (lambda picture: Image.eval(picture.resize((60, 60)), lambda v: 230 - v * 0.8), "webp"),
    ],
    ids=["inverted", "larger", "colour", "on grey paper"],
)
def test_digits_in_another_form_are_recognised_as_well(
    classifier, test_digits, tmp_path, change, suffix
):
    images, labels = test_digits
    plain = right(classifier, list(images), labels)
    other = right(classifier, saved(images, tmp_path, change, suffix), labels)
    assert plain > 0.9 and other >= plain - 0.01


def test_light_and_dark_are_exchanged_where_that_is_needed_alone(classifier, test_digits):
    images = test_digits[0][..., None]
    plain, inverse = classifier.predict(images), classifier.predict(255 - images)
    assert not any(each.inverted for each in plain) and all(each.inverted for each in inverse)
    assert [each.label for each in plain] == [each.label for each in inverse]
    never = classifier.predict(255 - images[:50], invert="never")
    assert not any(each.inverted for each in never)
    assert all({"contrast", "features"} & set(each.unlike) for each in never)
    always = classifier.predict(255 - images[:50], invert="always")
    assert all(each.inverted for each in always)
    for one, other in zip(
        always, inverse, strict=False
    ):  # in fewer images the last bits may differ
        assert one.label == other.label and one.unlike == other.unlike
        assert one.probability == pytest.approx(other.probability, abs=1e-6)


def test_a_tall_dark_digit_on_white_lies_in_black_once_exchanged(classifier, test_digits):
    """Where black pads it nothing is exchanged, and its border is the picture's own."""
    image = test_digits[0][0]
    narrow = image[:, 5:23]
    plain, inverse = classifier.predict([narrow, 255 - narrow])
    assert inverse.inverted and not plain.inverted
    assert inverse.label == plain.label and inverse.unlike == plain.unlike
    assert inverse.probability == pytest.approx(plain.probability, abs=1e-6)


def test_unlike_pictures_are_told(classifier, test_digits):
    images = test_digits[0]
    found = classifier.predict(list(images))
    alarms = sum("features" in each.unlike for each in found)
    assert alarms <= 14 and not any({"size", "contrast"} & set(each.unlike) for each in found)
    noise = np.random.default_rng(0).integers(0, 256, (50, 28, 28), dtype=np.uint8)
    assert all("features" in each.unlike for each in classifier.predict(list(noise)))
    (faint,) = classifier.predict(images[0] // 8)
    (tiny,) = classifier.predict(images[0][::4, ::4])
    assert "contrast" in faint.unlike and "size" in tiny.unlike


def test_without_enough_validation_images_nothing_is_told_and_nothing_exchanged(
    digits_run, test_digits
):
    classifier = nanocnn.load(digits_run, device="cpu", networks=NETWORKS)
    (found,) = classifier.predict(255 - test_digits[0][0])
    assert not classifier.judges and found.unlike is None and not found.inverted


def test_paths_pictures_and_arrays_give_the_same(classifier, test_digits, tmp_path):
    images = test_digits[0][:5]
    paths = saved(images, tmp_path)
    pictures = [Image.open(path) for path in paths]
    forms = [paths, map(str, paths), pictures, iter(images), images[..., None]]
    forms.append(np.repeat(images[..., None], 3, axis=3))
    rows = [classifier.probabilities(form) for form in forms]
    assert all(np.array_equal(row, rows[0]) for row in rows)
    assert [each.file for each in classifier.predict(paths)] == [str(path) for path in paths]
    assert np.allclose(classifier.probabilities(images[0]), rows[0][:1])
    assert classifier.predict([]) == [] and classifier.probabilities([]).shape == (0, 10)
    assert classifier.features([]).shape == (0, 128)


def test_a_picture_that_is_given_stays_as_it_is(classifier):
    picture = Image.new("RGBA", (40, 20), (255, 0, 0, 128))
    picture.getexif()[274] = 6
    before = picture.tobytes(), picture.size, dict(picture.getexif())
    array = np.full((28, 28), 200, np.uint8)
    classifier.predict([picture, array], invert="always")
    assert (picture.tobytes(), picture.size, dict(picture.getexif())) == before
    assert (array == 200).all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((28, 28)), "float64; should be (H, W) or (H, W, C) uint8"),
        (np.zeros((3, 28, 28), np.uint8), "an array (3, 28, 28) uint8"),
        (np.zeros((0, 28), np.uint8), "empty"),
        (Image.new("F", (28, 28)), "floating point"),
        ("nothing.png", "nothing.png (No such file or directory)"),
        (b"bytes", "should be a path"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_picture_is_said_and_the_others_go_on(classifier, wrong, said):
    good = np.zeros((28, 28), np.uint8)
    with pytest.raises(nanocnn.UserError, match="1 of 3 pictures cannot be read") as raised:
        classifier.predict([good, wrong, good])
    assert said in str(raised.value)
    found = list(classifier.stream([good, wrong, good], batch_size=2))
    assert [isinstance(each, Unreadable) for each in found] == [False, True, False]
    with pytest.raises(nanocnn.UserError):
        classifier.predict(7)


def test_no_more_is_read_than_what_is_worked_on(classifier):
    taken = []

    def many():
        for number in range(5000):
            taken.append(number)
            yield np.zeros((28, 28), np.uint8)

    found = classifier.stream(many(), batch_size=8)
    next(found)
    assert len(taken) < 500
    found.close()


def test_threads_share_one(classifier, test_digits):
    parts = np.array_split(test_digits[0][..., None], 8)
    alone = [classifier.probabilities(part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(classifier.probabilities, parts * 3))
    assert all(np.array_equal(found, alone[i % 8]) for i, found in enumerate(together))


def test_threads_that_are_in_the_last_layer_at_once_have_their_own_features(
    classifier, test_digits
):
    shared = classifier.to("cpu")
    parts = np.array_split(test_digits[0][:10, ..., None], 2)
    both = Barrier(2, timeout=60)
    head = [layer for layer in shared._model.modules() if isinstance(layer, torch.nn.Linear)][-1]

    def meet(*_):
        both.wait()

    head.register_forward_hook(meet)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(shared.features, parts))
    assert all(map(np.array_equal, found, map(classifier.features, parts)))
    assert found[0].shape == (5, 128)


def test_on_another_device_it_is_another_one(classifier, test_digits):
    moved = classifier.to("cpu")
    assert moved is not classifier
    images = test_digits[0][:10, ..., None]
    assert np.array_equal(moved.features(images), classifier.features(images))
    with pytest.raises(nanocnn.UserError, match="device = mps: not available"):
        classifier.to("mps")


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_own_pictures_are_read_as_training_read_them(digit_pictures, resize):
    root = digit_pictures({"train": 60}, size=50)
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        picture = Image.open(path).convert("RGBA").resize((20 + number, 50))
        picture.putalpha(picture.convert("L"))
        picture.save(path)
    options = [f"data.root={root}", "data.dataset=folder", f"data.resize={resize}"]
    config = load_config("digits.yaml", [*options, "data.image_size=[24,30]", "data.channels=3"])
    data = TrainingData(config)
    form = form_for(config.data, data.info)
    split = data.splits["train"]
    for path, image in zip(split.files.paths, split.images, strict=True):
        assert np.array_equal(read(root / path, form).pixels, image.numpy())


def test_of_one_size_others_are_stretched(digit_pictures, tmp_path):
    config = load_config(
        "digits.yaml", [f"data.root={digit_pictures({'train': 60})}", "data.dataset=folder"]
    )
    data = TrainingData(config)
    form = form_for(config.data, data.info)
    assert read(np.zeros((28, 28), np.uint8), form).pixels.shape == (1, 28, 28)
    assert read(np.zeros((99, 11, 3), np.uint8), form).pixels.shape == (1, 28, 28)


def test_of_pictures_in_colour_that_were_published_the_middle_is_cut_out(classifier):
    data = load_config("cifar10.yaml").data
    info = replace(classifier.info, dataset="cifar10", image_shape=(3, 32, 32))
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, 16:48] = 255
    assert (read(picture, form_for(data, info)).pixels == 255).all()


def test_the_head_of_a_network_is_found_where_it_ends_in_one():
    lenet = NETWORKS.find("lenet")((1, 28, 28), 10)
    assert linear_head(lenet, (1, 28, 28)) is list(lenet.modules())[-1]

    class After(torch.nn.Sequential):
        def forward(self, images):
            return super().forward(images).tanh()

    flat = torch.nn.Flatten(), torch.nn.Linear(16, 3)
    assert linear_head(torch.nn.Sequential(*flat), (1, 4, 4)) is flat[1]
    assert linear_head(After(*flat), (1, 4, 4)) is None
    pooled = torch.nn.Conv2d(1, 3, 4), torch.nn.Flatten()
    assert linear_head(torch.nn.Sequential(*pooled), (1, 4, 4)) is None
    vgg = NETWORKS.find("vgg11")((1, 32, 32), 10, **small("vgg11")).train()
    assert linear_head(vgg, (1, 32, 32)) is not None and vgg.training


def test_a_picture_has_the_same_answer_where_training_took_bf16(
    classifier, judging_run, test_digits
):
    images = test_digits[0][:50, :, :, None]
    expected = classifier.probabilities(images)
    restored = restore(judging_run, networks=NETWORKS)
    config = restored.config.model_copy(update={"precision": "bf16"})
    other = classifier_of(restored._replace(config=config), "cpu")
    for each in (other, other.to("cpu")):
        np.testing.assert_array_equal(each.probabilities(images), expected)
