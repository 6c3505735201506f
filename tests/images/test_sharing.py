"""Several processes make, each its slices, what one process makes of a step: to the bit."""

import pytest
import torch
from conftest import CPU, load_config, made_up_info

from nanocnn.config.schema import Augment
from nanocnn.images.batches import Batches
from nanocnn.images.cached_stream import CachedStream
from nanocnn.images.sharing import Cut, Share, parts_of
from nanocnn.images.splits import Split, data_info, load_splits

KEYS = {
    "shift": 2,
    "rotate": 10,
    "scale": 0.1,
    "shear": 10,
    "elastic": 1.0,
    "flip": True,
    "crop": 2,
    "random_resized_crop": [0.5, 1.0],
    "trivial_augment": True,
    "erasing": 0.5,
    "cutout": 5,
    "brightness": 0.2,
    "contrast": 0.2,
    "mixup": 0.4,
    "cutmix": 1.0,
}
AUGMENT = {name: Augment(**{name: value}) for name, value in KEYS.items()}
AUGMENT |= {
    "none": Augment(),
    "alternating": Augment(flip="alternating"),
    "elastic_sigma": Augment(elastic=1.0, elastic_sigma=2.0),
    "until": Augment(shift=2, until=0.5),
    "all": Augment(**KEYS),
}


def made_up(count, shape):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(count) % 5)


def steps_of(split, info, sizes, share, config):
    batch_size, accumulate = sizes
    batches = Batches(split, info, batch_size * accumulate, CPU, share, accumulate)
    return batches, list(batches.shuffled(3, 1, config))


def check_slices(split, info, sizes, config, size):
    """The slices of `size` processes put together are the steps of one."""
    _, whole = steps_of(split, info, sizes, Share(), config)
    of_each = [steps_of(split, info, sizes, Share(rank, size), config) for rank in range(size)]
    for number, (step, images, labels) in enumerate(whole):
        joined = torch.full_like(images, torch.nan)
        for batches, steps in of_each:
            its_step, its_images, its_labels = steps[number]
            own = [place for each in batches.slices(len(labels)) for place in each]
            assert its_step == step and torch.equal(its_labels, labels)
            joined[own] = its_images
        assert torch.equal(joined, images), number


def test_every_key_of_augment_is_among_them():
    tried = {key for config in AUGMENT.values() for key in config.model_dump(exclude_unset=True)}
    assert tried == set(Augment.model_fields)


@pytest.mark.parametrize("name", AUGMENT)
@pytest.mark.parametrize(
    ("count", "shape", "sizes"),
    [(37, (1, 28, 28), (16, 1)), (62, (3, 12, 16), (20, 3)), (42, (1, 6, 6), (8, 1))],
    ids=["grey", "accumulate", "a last step of two"],
)
def test_slices_are_those_of_one_process(name, count, shape, sizes):
    info = made_up_info("abcde", shape)
    for size in (2, 3, 5):
        check_slices(made_up(count, shape), info, sizes, AUGMENT[name], size)


@pytest.mark.parametrize("limit", ["1GB", "1KB"], ids=["memory", "cache"])
@pytest.mark.parametrize("name", ["all", "none"])
def test_slices_of_own_pictures(digit_pictures, limit, name):
    root = digit_pictures({"train": 40})
    config = load_config(
        "folder.yaml",
        [f"data.root={root}", f"data.memory_limit={limit}", "data.image_size=20", "data.test=0"],
    )
    split = load_splits(config.data, 0)["train"]
    assert isinstance(split.images, torch.Tensor if limit == "1GB" else CachedStream)
    for size in (2, 3, 5):
        check_slices(split, data_info(config.data, split), (7, 1), AUGMENT[name], size)


def test_parts_are_cut_first_and_then_among_the_processes():
    """As tensor_split cuts, both times."""
    thirds = torch.arange(13).tensor_split(3)
    for rank in range(2):
        expected = [each.tensor_split(2)[rank].tolist() for each in thirds]
        assert [list(each) for each in Share(rank, 2).slices(13, 3)] == expected
    assert parts_of(13, 5, 4) == 3 and parts_of(11, 5, 4) == 2 and parts_of(1, 5, 4) == 1


def test_a_slice_may_be_empty_and_is_still_part_of_the_step():
    cut = Cut.of(2, Share(2, 3).slices(2, 1), mixes=True)
    assert len(cut.own) == 0 and len(cut.before) == 0 and len(cut.made) == 2


def test_an_evaluation_shares_whole_batches():
    split, info = made_up(50, (1, 6, 6)), made_up_info("abcde")
    whole = [images for images, _ in Batches(split, info, 8, CPU)]
    for rank in range(3):
        mine = [images for images, _ in Batches(split, info, 8, CPU, Share(rank, 3))]
        assert all(map(torch.equal, mine, whole[rank::3])) and len(mine) == len(whole[rank::3])


def test_augmentation_does_not_know_the_number_of_processes_but_dropout_does():
    """Its masks come from the generators as they are once a step is handed out."""
    split, info = made_up(20, (1, 6, 6)), made_up_info("abcde")
    drawn = []
    for rank in range(3):
        batches = Batches(split, info, 20, CPU, Share(rank, 3))
        next(batches.shuffled(0, 0, AUGMENT["all"]))
        drawn.append(torch.rand(4).tolist())
    assert len({tuple(each) for each in drawn}) == 3
