"""Epochs in which each class comes equally often."""

import pytest
import torch
from conftest import load_config, made_up_info, train

from nanocnn.config.schema import Augment
from nanocnn.images.batches import Batches
from nanocnn.images.randomness import balanced_order, generator
from nanocnn.images.splits import Split
from nanocnn.run.checkpoint import load_checkpoint

INFO = made_up_info("abc", (1, 1, 1), mean=0.0, std=1 / 255)


def order(labels, seed=0, epoch=0):
    return balanced_order(labels, generator(seed, epoch))


@pytest.mark.parametrize("counts", [(90, 9, 1), (5, 5, 5), (1, 0, 100), (7, 4, 3)])
def test_each_class_comes_equally_often_and_each_image_of_it_too(counts):
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    found = order(labels[torch.randperm(len(labels), generator=generator(1))])
    labels = labels[torch.randperm(len(labels), generator=generator(1))]
    assert len(found) == len(labels)
    shares = torch.bincount(labels[found], minlength=3)
    present = shares[torch.tensor(counts) > 0]
    assert present.max() - present.min() <= 1
    for label in labels.unique():
        times = torch.bincount(found, minlength=len(labels))[labels == label]
        assert times.max() - times.min() <= 1


def test_no_class_is_favoured_and_no_place_in_the_epoch():
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([70, 20, 10]))
    orders = [order(labels, epoch=epoch) for epoch in range(200)]
    shares = torch.stack([torch.bincount(labels[found]) for found in orders]).float().mean(0)
    assert shares.tolist() == pytest.approx([100 / 3] * 3, abs=0.15)  # 33 or 34
    first = torch.cat([labels[found[:10]] for found in orders])
    assert (torch.bincount(first) / len(first)).tolist() == pytest.approx([1 / 3] * 3, abs=0.05)
    assert len(torch.cat([found[labels[found] == 0] for found in orders[:20]]).unique()) == 70


def test_batches_are_balanced_by_seed_and_epoch_alone_and_resume_in_the_middle():
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([70, 20, 10]))
    images = torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1)
    batches = Batches(Split(images, labels), INFO, 16, torch.device("cpu"))

    def epoch(seed, number, start=0):
        made = batches.shuffled(seed, number, Augment(), start, "balanced")
        return [(step, images.flatten().tolist(), labels.tolist()) for step, images, labels in made]

    whole = epoch(0, 1)
    assert [step for step, _, _ in whole] == list(range(len(batches), 2 * len(batches)))
    drawn = torch.tensor([label for _, _, labels in whole for label in labels])
    assert sorted(torch.bincount(drawn).tolist()) == [33, 33, 34]
    assert epoch(0, 1) == whole and epoch(0, 1, start=3) == whole[3:]
    assert epoch(0, 2) != whole and epoch(1, 1) != whole


def test_a_config_asks_for_it(tmp_path):
    options = ["model={name: mlp, hidden: [8]}", "train.epochs=1", "data.limit=100"]
    runs = [
        train(load_config("digits.yaml", [*options, f"data.sampling={how}"]), tmp_path / how)
        for how in ("natural", "balanced")
    ]
    first, second = (load_checkpoint(run / "last.pt") for run in runs)
    assert first["step"] == second["step"]
    assert any(not torch.equal(first["model"][key], second["model"][key]) for key in first["model"])


def test_rare_classes_are_not_made_up_for_twice(script):
    done = script("train.py", "data.sampling=balanced", "loss.class_weights=balanced")
    assert done.code == 2 and "loss.class_weights = balanced cannot act" in done.error
    assert script("train.py", "data.sampling=balanced", "--print-config").code == 0
