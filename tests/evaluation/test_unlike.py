"""Whether the false alarms are as many as it is said, and what is found in brightness."""

import pytest
import torch
from conftest import made_up_info, made_up_learner
from torch import nn

from nanocnn.evaluation.evaluate import evaluate
from nanocnn.evaluation.unlike import (
    Judgement,
    Sums,
    Traits,
    brightness_of,
    fit_unlike,
    projected,
)
from nanocnn.run.contents import check_contents
from nanocnn.run.validation import Validation
from nanocnn.system.errors import UserError

GREY = torch.tensor([[20.0, 60.0, 50.0]])


def made_up(count, size=60, seed=0):
    """Traits and labels of two classes, normally distributed."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    features = torch.randn(count, size, generator=random) @ torch.linspace(0.1, 3, size).diag()
    features[:, 0] += 5 * labels
    view = torch.randn(count, 4, generator=random)
    brightness = GREY + torch.randn(count, 3, generator=random)
    return Traits(features, view, brightness), labels


def test_false_alarms_are_as_many_as_is_said_where_images_are_few_for_the_dimensions():
    shares = []
    for seed in range(5):
        judgement = Judgement(fit_unlike(*made_up(600, seed=seed), 2))
        far = judgement.is_far(made_up(5000, seed=100 + seed)[0])
        shares.append(sum(far) / 5000)
    assert 0.006 < sum(shares) / 5 < 0.014, shares


def test_what_is_elsewhere_is_far():
    judgement = Judgement(fit_unlike(*made_up(600), 2))
    traits, _ = made_up(50, seed=1)
    assert all(judgement.is_far(traits._replace(features=traits.features + 4)))
    assert all(judgement.is_far(traits._replace(view=traits.view + 6)))
    between = traits.features.clone()
    between[:, 0] = 40
    assert all(judgement.is_far(traits._replace(features=between)))


def test_few_images_and_no_features_give_no_judgement():
    traits, labels = made_up(199)
    assert fit_unlike(traits, labels, 2) is None
    traits, labels = made_up(300)
    found = fit_unlike(traits._replace(features=None), labels, 2)
    assert Judgement(found).is_far(traits) is None and found["brightness"]["one_sided"]
    infinite = traits._replace(features=traits.features / 0)
    assert fit_unlike(infinite, labels, 2)["gaussians"] == []


def test_a_class_of_one_image_and_one_of_none_harm_nothing():
    traits, labels = made_up(400)
    labels[0] = 2
    judgement = Judgement(fit_unlike(traits, labels, 4))
    found = judgement.scores(made_up(1000, seed=1)[0])
    assert found.isfinite().all() and (found > judgement.threshold).float().mean() < 0.03


def test_sums_without_a_part_are_those_of_the_rest():
    traits, labels = made_up(100)
    values = traits.features
    rest = Sums.of(values, labels, 2).without(Sums.of(values[:30], labels[:30], 2)).fit()
    direct = Sums.of(values[30:], labels[30:], 2).fit()
    assert all(map(torch.allclose, rest, direct))


def test_many_features_become_fewer_at_the_same_distances():
    features = torch.randn(20, 1000)
    assert projected(features[:, :256]).equal(features[:, :256])
    found = projected(features)
    assert found.shape == (20, 256) and projected(features).equal(found)
    assert 0.3 < float(found.norm() / features.norm()) < 0.7  # sqrt(256 / 1000)


def test_brightness_is_that_of_the_border_of_all_and_its_spread():
    images = torch.zeros(1, 3, 4, 4)
    images[:, :, 1:3, 1:3] = 200
    assert brightness_of(images).tolist() == [[0, 50, pytest.approx(86.60254)]]


def test_images_of_both_polarities_are_never_exchanged():
    traits, labels = made_up(300)
    one = Judgement(fit_unlike(traits, labels, 2))
    assert one.is_inverse(torch.tensor([[235.0, 195, 50], [20, 60, 50], [128, 128, 9]])) == [
        True,
        False,
        False,
    ]
    brightness = traits.brightness.clone()
    brightness[::50, :2] = 255 - brightness[::50, :2]
    both = Judgement(fit_unlike(traits._replace(brightness=brightness), labels, 2))
    assert both.is_inverse(255 - GREY) == [False]


def test_another_contrast_is_one_that_no_validation_image_has():
    judgement = Judgement(fit_unlike(*made_up(300), 2))
    others = torch.tensor([[20.0, 60, 50], [20, 60, 10], [20, 140, 50], [90, 60, 50]])
    assert judgement.is_of_other_contrast(others) == [False, True, True, True]


def test_what_judging_notes_changes_nothing_of_the_judgement():
    """Neither does it of the modes of the layers."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    learner = made_up_learner(nn.Sequential(*layers), made_up_info())
    batches = [(torch.randn(7, 1, 6, 6), torch.arange(7) % 2) for _ in range(3)]
    state = {name: value.clone() for name, value in learner.model.state_dict().items()}
    before = torch.get_rng_state()
    noted = learner.judge(batches)
    assert torch.equal(torch.get_rng_state(), before)
    plain = evaluate(learner.model, batches)
    assert torch.equal(noted.logits, plain.logits)
    assert noted.loss == pytest.approx(plain.loss)  # another sum of the same losses
    assert all(
        torch.equal(state[name], value) for name, value in learner.model.state_dict().items()
    )
    learner.judge(batches)
    assert all(layer.training for layer in layers) and not layers[-1]._forward_pre_hooks
    traits = noted.traits
    learner.model.eval()
    expected = learner.model[:4](torch.cat([images for images, _ in batches]))
    assert torch.equal(traits.features, expected) and traits.view.shape == (21, 64)


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: found["gaussians"][0].update(whitening=torch.zeros(2, 2)),
        lambda found: found["gaussians"][0]["means"].fill_(torch.nan),
        lambda found: found["brightness"].update(deviation=[0.0, 1.0, 1.0]),
        lambda found: found["brightness"].pop("low"),
        lambda found: found.update(threshold=torch.inf),
    ],
)
def test_a_checkpoint_that_holds_something_else_is_refused(damage):
    values = {"loss": 1.0, "accuracy": 0.5, "unlike": fit_unlike(*made_up(300), 2)}
    check_contents(Validation, values)
    damage(values["unlike"])
    with pytest.raises(UserError, match="unlike"):
        check_contents(Validation, values)
