"""Each kind of augmentation by value and by property, and what training makes of them."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import load_config, made_up_info, made_up_learner, train
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

from nanocnn.config.schema import Augment, CrossEntropy, Data
from nanocnn.images.augment import augment, check, harmful, mix
from nanocnn.images.batches import Batches
from nanocnn.images.randomness import ORDER, generator
from nanocnn.images.splits import DataInfo, Split, load_splits
from nanocnn.system.errors import UserError

# one of each key, and all together; the images they are tried on are 12x16
PIXELWISE = {  # stays uint8
    "shift": Augment(shift=3),
    "crop": Augment(crop=3),
    "flip": Augment(flip=True),
    "cutout": Augment(cutout=5),
    "erasing": Augment(erasing=0.9),
}
SAMPLED = {
    "rotate": Augment(rotate=40),
    "scale": Augment(scale=0.5),
    "shear": Augment(shear=30),
    "elastic": Augment(elastic=2),
    "elastic_sigma": Augment(elastic=2, elastic_sigma=1),
    "brightness": Augment(brightness=0.6),
    "contrast": Augment(contrast=0.6),
    "random_resized_crop": Augment(random_resized_crop=[0.1, 0.8]),
    "trivial_augment": Augment(trivial_augment=True),
}
EVERYTHING = {
    "shift": 2,
    "rotate": 20,
    "scale": 0.2,
    "shear": 10,
    "elastic": 1.0,
    "flip": True,
    "crop": 2,
    "cutout": 5,
    "brightness": 0.3,
    "contrast": 0.3,
    "random_resized_crop": [0.5, 1.0],
    "trivial_augment": True,
    "erasing": 0.5,
}
ALL = PIXELWISE | SAMPLED | {"all": Augment(**EVERYTHING)}
MIXED = {
    "mixup": Augment(mixup=0.4),
    "cutmix": Augment(cutmix=1),
    "both": Augment(mixup=0.4, cutmix=1),
}


INFO = made_up_info("abc", (1, 2, 2), std=0.25)


def noise(*shape, seed=0):
    """uint8 images without black pixels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator)


def seeded(images, config, seed=0):
    torch.manual_seed(seed)
    return augment(images, config)


def random_numbers(count, most, seed=0, skip=0):
    """The numbers from -most to most that `seed` gives for `count` images, after `skip` such
    draws.
    """
    torch.manual_seed(seed)
    for _ in range(skip):
        torch.rand(count)
    return (2 * torch.rand(count) - 1) * most


def test_every_key_is_tried_here_and_nothing_happens_by_default():
    assert set(ALL) | set(MIXED) | {"until"} == set(Augment.model_fields) | {"all", "both"}
    images = noise(4, 3, 12, 16)
    torch.manual_seed(1)
    unchanged = augment(images, Augment())
    assert torch.equal(unchanged, images) and not Augment().mixes
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after), "random numbers were drawn for nothing"


# properties of all


@pytest.mark.parametrize("name", ALL)
def test_an_image_is_changed_by_itself_and_repeatably(name):
    images = noise(1, 3, 12, 16).repeat(40, 1, 1, 1)
    changed = seeded(images, ALL[name])
    assert changed.shape == images.shape
    assert len(changed.unique(dim=0)) > (1 if name == "flip" else 20), "the same for all images"
    assert torch.equal(changed, seeded(images, ALL[name]))
    assert not torch.equal(changed, seeded(images, ALL[name], seed=1))
    assert torch.equal(images, noise(1, 3, 12, 16).repeat(40, 1, 1, 1)), "changed in place"
    images[7] = noise(3, 12, 16, seed=1)
    others = [i for i in range(40) if i != 7]
    torch.testing.assert_close(seeded(images, ALL[name])[others], changed[others])


@pytest.mark.parametrize("name", ALL)
def test_the_type_stays_uint8_where_it_can_and_the_scale_always(name):
    changed = seeded(noise(64, 3, 12, 16), ALL[name])
    assert changed.dtype == (torch.uint8 if name in PIXELWISE else torch.float32)
    assert changed.min() >= 0 and changed.max() <= 255 and changed.max() > 200


@pytest.mark.parametrize("name", ALL | MIXED)
def test_nothing_waits_for_a_device(name):
    """On the meta device there are no values to wait for: whatever asks for one raises an error."""
    images = torch.empty(8, 3, 12, 16, device="meta")
    if name in MIXED:
        labels = torch.empty(8, dtype=torch.int64, device="meta")
        mixed, _ = mix(images, labels, 5, MIXED[name])
    else:
        mixed = augment(images, ALL[name])
    assert mixed.device.type == "meta" and mixed.shape == images.shape


# shift, crop, flip


def former_shift(images, pixels):
    """The shift that the accuracies of the configs were measured with."""
    batch, _, height, width = images.shape
    offsets = torch.randint(2 * pixels + 1, (2, batch, 1, 1, 1)).to(images.device)
    rows = offsets[0] + torch.arange(height, device=images.device).view(1, 1, -1, 1)
    columns = offsets[1] + torch.arange(width, device=images.device).view(1, 1, 1, -1)
    image = torch.arange(batch, device=images.device).view(-1, 1, 1, 1)
    channel = torch.arange(images.shape[1], device=images.device).view(1, -1, 1, 1)
    return F.pad(images, (pixels,) * 4)[image, channel, rows, columns]


@pytest.mark.parametrize("shape", [(128, 1, 28, 28), (7, 3, 9, 14), (1, 2, 5, 5)])
@pytest.mark.parametrize("pixels", [1, 2, 4])
def test_shift_is_bit_for_bit_what_it_was(shape, pixels):
    images = noise(*shape)
    torch.manual_seed(5)
    before, next_before = former_shift(images, pixels), torch.rand(4)
    torch.manual_seed(5)
    after, next_after = augment(images, Augment(shift=pixels)), torch.rand(4)
    assert before.dtype == after.dtype and torch.equal(before, after)
    assert torch.equal(next_before, next_after), "dropout would be another"


@pytest.mark.parametrize(
    "config, padding",
    [(Augment(shift=2), {"mode": "constant"}), (Augment(crop=2), {"mode": "reflect"})],
)
def test_shift_and_crop_move_by_every_offset_alike_with_their_own_edges(config, padding):
    images = noise(1000, 2, 5, 6)
    moved = seeded(images, config)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), **padding)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 6), axis=(2, 3))
    fits = (windows == moved.numpy()[:, :, None, None]).all((1, 4, 5))  # (B, down, right)
    assert (fits.sum((1, 2)) == 1).all()
    counts = fits.sum(0)
    assert counts.shape == (5, 5) and counts.min() > 15 and counts.max() < 75  # 40 each


def test_the_alternating_flip_mirrors_each_image_in_every_other_epoch():
    split = Split(noise(300, 1, 2, 2), torch.zeros(300, dtype=torch.int64))
    batches = Batches(split, INFO, 64, torch.device("cpu"))
    config = Augment(flip="alternating")

    def epoch_of(epoch, start=0):
        order = torch.randperm(len(split.labels), generator=generator(0, ORDER, epoch))
        images = torch.cat([images for _, images, _ in batches.shuffled(0, epoch, config, start)])
        return images, order[64 * start :]

    upright = batches.normalise(split.images)
    seen = []
    for epoch in range(3):
        images, order = epoch_of(epoch)
        mirrored = (images == upright[order].flip(3)).flatten(1).all(1)
        assert torch.equal(images[~mirrored], upright[order][~mirrored])
        seen.append(torch.zeros(len(order), dtype=torch.bool).index_put((order,), mirrored))
    assert 0.4 < seen[0].float().mean() < 0.6
    assert torch.equal(seen[1], ~seen[0]) and torch.equal(seen[2], seen[0])
    rest, order = epoch_of(1, start=3)
    assert torch.equal(rest, epoch_of(1)[0][3 * 64 :]), "an epoch gone on with is the same"


def test_flip_mirrors_about_half_of_the_images():
    images = noise(1000, 2, 5, 6)
    flipped = seeded(images, Augment(flip=True))
    mirrored = (flipped == images.flip(3)).all(3).all(2).all(1)
    assert torch.equal(flipped[~mirrored], images[~mirrored])
    assert 430 < mirrored.sum() < 570


# the warp


@pytest.mark.parametrize("size", [(20, 20), (20, 28)])
@pytest.mark.parametrize(
    "keys",
    [{"rotate": 180}, {"scale": 0.4}, {"shear": 35}, {"rotate": 30, "scale": 0.2, "shear": 20}],
)
def test_affine_maps_are_those_of_torchvision(keys, size):
    images = noise(12, 2, *size)
    warped = seeded(images, Augment(**keys))
    angles, scales, shears = (
        random_numbers(12, keys.get(key, 0), skip=skip)
        for skip, key in enumerate(("rotate", "scale", "shear"))
    )
    for image, result, angle, scale, shear in zip(
        images.float(), warped, angles, scales, shears, strict=True
    ):
        expected = affine(
            image,
            angle.item(),
            [0, 0],
            1 + scale.item(),
            [shear.item(), 0],
            InterpolationMode.BILINEAR,
        )
        # torchvision makes what is outside black by a mask of its own, rounded at the edge
        assert ((result - expected).abs() > 0.1).float().mean() < 0.05
        inner = (slice(None), slice(6, -6), slice(6, -6))
        torch.testing.assert_close(result[inner], expected[inner], atol=0.05, rtol=0)


def test_the_centre_stays_and_black_comes_in():
    images = torch.full((50, 1, 13, 17), 200.0)
    warped = seeded(images, Augment(rotate=180, scale=0.3, shear=20))
    torch.testing.assert_close(warped[:, 0, 6, 8], torch.full((50,), 200.0))
    assert (warped[:, 0, 0, 0] == 0).any() and warped.max() <= 200.001


def displacements(config, count=400, side=33):
    """(count, 2, side - 16, side - 16): how far from each inner pixel the warp samples, across and
    down.
    """
    places = torch.stack(torch.meshgrid(*[torch.arange(side) + 100.0] * 2, indexing="xy"))
    warped = seeded(places.expand(count, -1, -1, -1), config)
    return (warped - places)[:, :, 8:-8, 8:-8]


@pytest.mark.parametrize("size, sigma", [(0.5, None), (1.5, None), (1.0, 2.0), (1.0, 6.0)])
def test_elastic_displacements_have_their_size_and_smoothness(size, sigma):
    """White noise smoothed by a Gaussian correlates over a distance d as exp(-d^2 / (4
    sigma^2)).
    """
    moved = displacements(Augment(elastic=size, elastic_sigma=sigma))
    assert moved.std().item() == pytest.approx(size, rel=0.04)
    assert abs(moved.mean().item()) < 0.05 * size
    assert abs((moved[:, 0] * moved[:, 1]).mean().item()) < 0.05 * size**2
    sigma = sigma or 4.0
    for distance in (1, 3, 6):
        expected = math.exp(-(distance**2) / (4 * sigma**2))
        across = (moved[..., distance:] * moved[..., :-distance]).mean() / size**2
        down = (moved[..., distance:, :] * moved[..., :-distance, :]).mean() / size**2
        assert across.item() == pytest.approx(expected, abs=0.06)
        assert down.item() == pytest.approx(expected, abs=0.06)


def test_elastic_displacements_are_as_large_at_the_edge():
    places = torch.arange(24.0).expand(3000, 1, 24, 24) * 4 + 100
    warped = seeded(places, Augment(elastic=0.2))
    moved = ((warped - places) / 4)[..., 1:-1].clamp(-1, 1)[:, 0, 5]
    assert moved.std(0).min() > 0.17 and moved.std(0).max() < 0.23


def test_an_affine_map_and_the_elastic_field_act_together():
    both = displacements(Augment(elastic=0.5, rotate=3))
    assert both.std().item() == pytest.approx(
        math.hypot(0.5, displacements(Augment(rotate=3)).std().item()), rel=0.06
    )


# light


def test_brightness_multiplies_within_its_bounds():
    images = noise(2000, 1, 4, 4) // 2 + 1
    factors = seeded(images, Augment(brightness=0.4)) / images
    per_image = factors.mean((1, 2, 3))
    torch.testing.assert_close(factors, per_image.view(-1, 1, 1, 1).expand_as(factors))
    assert 0.6 <= per_image.min() < 0.61 and 1.39 < per_image.max() <= 1.4001
    assert per_image.mean().item() == pytest.approx(1, abs=0.02)


def test_contrast_stretches_about_the_mean_within_its_bounds():
    images = noise(2000, 3, 4, 4) // 4 + 96
    stretched = seeded(images, Augment(contrast=0.4))
    mean = images.float().mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(stretched.mean((1, 2, 3), keepdim=True), mean)
    factors = (stretched - mean).flatten(1).norm(dim=1) / (images - mean).flatten(1).norm(dim=1)
    torch.testing.assert_close(stretched, mean + (images - mean) * factors.view(-1, 1, 1, 1))
    assert 0.6 <= factors.min() < 0.61 and 1.39 < factors.max() <= 1.4001


def test_light_stays_in_the_scale():
    images = torch.tensor([0, 255], dtype=torch.uint8).repeat(100, 1, 8, 4)
    for keys in ({"brightness": 0.9}, {"contrast": 0.9}, {"brightness": 0.9, "contrast": 0.9}):
        changed = seeded(images, Augment(**keys))
        assert changed.min() >= 0 and changed.max() == 255


# boxes


@pytest.mark.parametrize("side", [1, 4, 5])
def test_cutout_hides_a_square_that_the_edges_may_cut(side):
    images = noise(2000, 2, 10, 13)
    hidden = seeded(images, Augment(cutout=side)) == 0
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    rows, columns = hidden[:, 0].any(2), hidden[:, 0].any(1)
    assert torch.equal(hidden[:, 0], rows[:, :, None] & columns[:, None, :]), "no rectangle"
    for spans, size in ((rows, 10), (columns, 13)):
        lengths = spans.sum(1)
        runs = (spans[:, 1:] != spans[:, :-1]).sum(1) + spans[:, 0] + spans[:, -1]
        assert (runs <= 2).all(), "not in one piece"
        assert lengths.max() == side and lengths.min() == (side + 1) // 2
        # the centre is any of `size` pixels, and only side - 1 of them are too near an edge
        whole = (lengths == side).float().mean().item()
        assert whole == pytest.approx(1 - (side - 1) / size, abs=0.04)
        assert spans.any(0).all()


def test_what_is_hidden_stays_hidden():
    config = Augment(flip=True, crop=2, elastic=0.1, brightness=0.3, contrast=0.3, cutout=6)
    hidden = (seeded(noise(50, 1, 12, 12) // 8 + 100, config) == 0)[:, 0]
    rows, columns = hidden.any(2), hidden.any(1)
    assert torch.equal(hidden, rows[:, :, None] & columns[:, None, :])
    assert rows.any(1).all() and rows.sum(1).max() == columns.sum(1).max() == 6


# mixing


def coded(count, height=11, width=14):
    """Images whose pixels all hold the number of the image, and as many classes as images."""
    numbers = torch.arange(float(count)).view(-1, 1, 1, 1)
    return numbers.expand(-1, 2, height, width), torch.arange(count)


def test_cutmix_labels_are_the_pixels_shares_of_one_box():
    images, labels = coded(120)
    torch.manual_seed(0)
    mixed, shares = mix(images, labels, 120, Augment(cutmix=1))
    counted = F.one_hot(mixed.long(), 120).float().mean((1, 2, 3))  # (B, classes)
    torch.testing.assert_close(shares, counted)
    assert torch.equal(mixed[:, 0], mixed[:, 1])
    other = mixed[:, 0] != images[:, 0]
    assert torch.equal(other, other.any(2)[:, :, None] & other.any(1)[:, None, :]), "no box"
    assert (mixed[:, 0][other] == images.roll(1, 0)[:, 0][other]).all()
    sizes = other.float().mean((1, 2))
    assert len(sizes.unique()) > 25 and sizes.min() < 0.05 and sizes.max() > 0.6


def test_mixup_labels_are_the_weights_of_the_images():
    images, labels = coded(50)
    torch.manual_seed(0)
    mixed, shares = mix(images, labels, 50, Augment(mixup=1))
    expected = torch.einsum("bc,c->b", shares, torch.arange(50.0))
    torch.testing.assert_close(mixed, expected.view(-1, 1, 1, 1).expand_as(mixed))
    assert ((shares > 0).sum(1) == 2).all() and shares.dtype == torch.float32
    torch.testing.assert_close(shares.sum(1), torch.ones(50))


@pytest.mark.parametrize("alpha", [0.2, 1, 8])
def test_mixup_weights_follow_their_beta_distribution(alpha):
    images, labels = torch.zeros(20_000, 1, 1, 1), torch.arange(20_000) % 2
    torch.manual_seed(0)
    share = mix(images, labels, 2, Augment(mixup=alpha))[1][:, 0]
    assert share.mean().item() == pytest.approx(0.5, abs=0.02)
    assert share.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_cutmix_boxes_follow_their_beta_distribution_before_the_edges_cut_them():
    """At alpha = 100 the share is close to one half, and the sides to its root."""
    images, labels = coded(500, 40, 30)
    torch.manual_seed(0)
    mixed, _ = mix(images, labels, 500, Augment(cutmix=100))
    other = mixed[:, 0] != images[:, 0]
    assert other.any(2).sum(1).max().item() == pytest.approx(40 * 0.5**0.5, abs=3)
    assert other.any(1).sum(1).max().item() == pytest.approx(30 * 0.5**0.5, abs=3)


def test_equal_labels_add_up_and_both_ways_of_mixing_take_turns():
    images, _ = coded(6)
    torch.manual_seed(0)
    _, shares = mix(images, torch.full((6,), 2), 4, MIXED["both"])
    torch.testing.assert_close(shares, F.one_hot(torch.full((6,), 2), 4).float())
    images, labels = coded(30)
    whole = 0
    for _ in range(200):
        mixed, _ = mix(images, labels, 30, MIXED["both"])
        whole += bool((mixed == mixed.round()).all())
    assert 70 < whole < 130


# in training


def batches_of(count=40):
    info = DataInfo("made up", list("abcde"), [0.4] * 3, [0.2] * 3, (3, 12, 16))
    labels = torch.arange(count) % 5
    return Batches(Split(noise(count, 3, 12, 16), labels), info, 8, torch.device("cpu"))


@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.4, "cutmix": 1}])
def test_a_batch_depends_on_seed_and_step_alone(mixing):
    batches, config = batches_of(), Augment(**EVERYTHING, **mixing)
    whole = list(batches.shuffled(3, 1, config))
    torch.rand(5)
    for (step, images, labels), (step_again, images_again, labels_again) in zip(
        whole[2:], batches.shuffled(3, 1, config, start=2), strict=True
    ):
        assert step == step_again
        assert torch.equal(images, images_again) and torch.equal(labels, labels_again)
    other = next(batches.shuffled(4, 1, config))
    assert not torch.equal(other[1], whole[0][1])


def test_batches_are_augmented_then_normalised_then_mixed():
    batches, config = batches_of(), Augment(rotate=30, shift=2)
    for _, images, labels in batches.shuffled(0, 0, config):
        black = torch.tensor(-0.4 / 0.2)
        assert torch.isclose(images, black).any() and labels.shape == (8,)
    plain = {step: pair for step, *pair in batches.shuffled(0, 0, config)}
    for step, images, labels in batches.shuffled(0, 0, Augment(rotate=30, shift=2, mixup=1)):
        before, numbers = plain[step]
        pairs = torch.stack([before, before.roll(1, 0)])  # each pixel lies between its two
        assert (images >= pairs.amin(0) - 1e-4).all() and (images <= pairs.amax(0) + 1e-4).all()
        assert labels.shape == (8, 5)
        assert (labels.gather(1, numbers[:, None]) > 0).all()


def test_validation_images_stay_as_they_are():
    strong = Augment(**EVERYTHING, mixup=1, cutmix=1)
    plain, augmented = (
        load_splits(Data(limit=200, augment=augment), 0) for augment in (Augment(), strong)
    )
    for name in ("train", "val"):
        assert all(map(torch.equal, plain[name][:2], augmented[name][:2]))
    batches = batches_of()
    list(batches.shuffled(0, 0, strong))
    images = torch.cat([images for images, _ in batches])
    torch.testing.assert_close(images, (noise(40, 3, 12, 16) / 255 - 0.4) / 0.2)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_training_on_shares_counts_the_largest_as_correct(precision):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.tensor([0.0, 1.0, 0.0])  # answers 1, always
    shares = torch.tensor([[0.1, 0.5, 0.4], [0.6, 0.4, 0.0], [0.0, 0.2, 0.8], [0, 1, 0]])
    smoothing = 0.2
    expected = -(
        ((1 - smoothing) * shares + smoothing / 3) * model[1].bias.detach().log_softmax(0)
    ).sum(1)
    loss = CrossEntropy(label_smoothing=smoothing)
    learner = made_up_learner(model, INFO, precision, loss=loss)
    result = learner.step(torch.ones(4, 1, 2, 2), shares, 0.1)
    assert (int(result.correct), result.images) == (2, 4)
    assert float(result.total / result.weight) == pytest.approx(expected.mean().item(), rel=1e-2)


LEARNING = {
    "shift": {"shift": 1},
    "rotate": {"rotate": 10},
    "scale": {"scale": 0.1},
    "shear": {"shear": 10},
    "elastic": {"elastic": 1.0},
    "flip": {"flip": True},
    "crop": {"crop": 1},
    "cutout": {"cutout": 6},
    "brightness": {"brightness": 0.3},
    "contrast": {"contrast": 0.3},
    "random_resized_crop": {"random_resized_crop": [0.6, 1.0]},
    "trivial_augment": {"trivial_augment": True},
    "erasing": {"erasing": 0.3},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
}


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.slow
def test_digits_are_learnt_under_each_kind(name, tmp_path, capsys):
    overrides = ["model={name: mlp}", "data.limit=500", "data.validation=200", "train.epochs=6"]
    overrides += [f"data.augment={json.dumps(LEARNING[name])}"]
    run = train(load_config("digits.yaml", overrides), tmp_path / "run")
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["val_accuracy"] > 0.6
    assert capsys.readouterr().err.count("warning: data.augment.flip") == (name == "flip")


# what is refused or warned of


@pytest.mark.parametrize("key", ["shift", "elastic", "elastic_sigma", "crop", "cutout"])
def test_as_many_pixels_as_a_side_are_refused(key):
    def config(pixels):
        return Augment(**{"elastic": 1} | {key: pixels})

    check(config(11), (3, 12, 16))
    for shape in ((3, 12, 16), (1, 16, 12)):
        with pytest.raises(UserError, match=rf"data\.augment\.{key} = 12.*{shape[1]}x{shape[2]}"):
            check(config(12), shape)
    with pytest.raises(UserError, match=rf"data\.augment\.{key} = 28.*28x28"):
        load_splits(Data(augment=config(28)), 0)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["data.augment.elastic_sigma=3"], r"data\.augment\.elastic_sigma = 3\.0.*elastic = 0"),
        (["data.augment.mixup=1", "train.batch_size=1"], r"data\.augment\.mixup.*batch_size = 1"),
        (["data.augment.cutmix=1", "train.batch_size=1"], r"data\.augment\.cutmix.*batch_size = 1"),
        (["data.augment.rotate=181"], r"data\.augment\.rotate = 181: should be less than or equal"),
        (["data.augment.scale=1"], r"data\.augment\.scale = 1: should be less than 1"),
        (["data.augment.shear=90"], r"data\.augment\.shear = 90: should be less than or equal"),
        (["data.augment.flip=1"], r"data\.augment\.flip = 1: should be 'alternating' or"),
        (["data.augment.crop=1.5"], r"data\.augment\.crop = 1\.5: should be a valid integer"),
        (["data.augment.cutout=-1"], r"data\.augment\.cutout = -1: should be greater"),
        (["data.augment.brightness=1"], r"data\.augment\.brightness = 1: should be less than 1"),
        (["data.augment.contrast=1"], r"data\.augment\.contrast = 1: should be less than 1"),
        (["data.augment.mixup=-1"], r"data\.augment\.mixup = -1: should be greater"),
        (
            ["data.augment.rotation=5"],
            r"unknown key 'data\.augment\.rotation'; did you mean 'data.augment.rotate'",
        ),
    ],
)
def test_what_cannot_act_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        load_config("digits.yaml", overrides)


def test_what_harms_by_nature_is_warned_of():
    for name in ("digits", "mnist", "svhn", "emnist_letters", "kmnist"):
        (line,) = harmful(Data(dataset=name, augment=Augment(flip=True)))
        assert "data.augment.flip" in line and name in line and "\n" not in line
        (line,) = harmful(Data(dataset=name, augment=Augment(rotate=180)))
        assert "data.augment.rotate = 180" in line and name in line and "\n" not in line
        assert harmful(Data(dataset=name, augment=Augment(rotate=15, shift=2, mixup=1))) == []
        (line,) = harmful(Data(dataset=name, average_flips=True))
        assert "data.average_flips" in line and name in line and "\n" not in line
    for name in ("cifar10", "fashion_mnist"):
        assert harmful(Data(dataset=name, augment=Augment(flip=True, rotate=180))) == []
