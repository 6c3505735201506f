"""The last layer fitted to the features before it: the optimum, folded exactly into the network."""

import math

import pytest
import torch
from conftest import made_up_info, made_up_learner
from sklearn.linear_model import LogisticRegression
from torch import nn

from nanocnn.config.schema import BCE, MSE, SGD, CrossEntropy, Data, Focal, Group, Train
from nanocnn.networks.build import two_logits
from nanocnn.system.errors import UserError
from nanocnn.training.head import DECAYS, Features, Problem, fit
from nanocnn.training.loss import CrossEntropyLoss


def made_up(n=90, features=7, classes=3, seed=0):
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    values = torch.randn(n, features, generator=random) * torch.arange(1, features + 1) + 5
    values[:, :classes] += 3 * nn.functional.one_hot(labels, classes)
    values[:, -1] = 2.5  # says nothing, and has no spread to divide by
    return Features(values, labels)


@pytest.mark.parametrize("decay", [3.0, 0.1, 0.003])
def test_the_optimum_is_scikit_learns(decay):
    found = made_up()
    problem = Problem(found, 3, CrossEntropyLoss(), False)
    head = problem.head(problem.solve(decay), decay)
    theirs = LogisticRegression(C=1 / (decay * len(found.labels)), tol=1e-10, max_iter=10_000)
    theirs.fit(problem.inputs.numpy(), found.labels.numpy())
    expected = torch.tensor(theirs.predict_proba(problem.inputs.numpy()))
    torch.testing.assert_close(head.logits(found.values).softmax(1), expected, atol=2e-4, rtol=0)


def test_class_weights_and_balance_count_images():
    found = made_up()
    few = torch.cat([torch.arange(0, 90, 3), torch.arange(1, 30, 3), torch.arange(2, 30, 3)])
    part = Features(found.values[few], found.labels[few])  # 30, 10, 10
    doubled = torch.cat([few[:30], few[30:].repeat(3)])
    many = Features(found.values[doubled], found.labels[doubled])
    weights = torch.tensor([1.0, 3.0, 3.0])
    wanted = Problem(many, 3, CrossEntropyLoss(), False)
    for loss, balanced in ((CrossEntropyLoss(0.0, weights), False), (CrossEntropyLoss(), True)):
        problem = Problem(part, 3, loss, balanced)
        problem.inputs = (part.values.double() - wanted.mean) / wanted.std
        for layer in (torch.zeros(24), torch.arange(24) / 30):
            ours, theirs = (each.value(layer.double().numpy(), 0.1) for each in (problem, wanted))
            assert ours[0] == pytest.approx(theirs[0])
            torch.testing.assert_close(torch.tensor(ours[1]), torch.tensor(theirs[1]))


def test_the_decay_is_the_best_on_validation_images():
    train, val = made_up(), made_up(seed=1)
    loss = CrossEntropyLoss()

    def score(decay):
        problem = Problem(train, 3, loss, False)
        total, weight = loss(
            problem.head(problem.solve(decay), decay).logits(val.values), val.labels
        )
        return float(total) / weight

    head = fit(train, val, 3, loss)
    assert head.decay == min(DECAYS, key=score)
    again = fit(train, val, 3, loss)
    assert torch.equal(again.weight, head.weight) and torch.equal(again.bias, head.bias)
    alone = fit(train, None, 3, loss)  # a fifth of the images chooses, and all are fitted to
    problem = Problem(train, 3, loss, False)
    expected = problem.head(problem.solve(alone.decay), alone.decay)
    assert torch.equal(alone.weight, expected.weight)


class Net(nn.Module):
    def __init__(self, classes=3, after=None):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(8, classes)
        self.after = after or nn.Identity()

    def forward(self, images):
        return self.after(self.fc(self.drop(self.body(images))))


def batches(classes=3):
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % classes
    images = torch.randn(60, 1, 6, 6, generator=random) + labels.view(-1, 1, 1, 1)
    return [(images[:40], labels[:40]), (images[40:], labels[40:])]


@pytest.mark.parametrize(
    "loss", [CrossEntropy(), CrossEntropy(label_smoothing=0.1), MSE(), Focal()]
)
@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_network_has_the_logits_of_the_fit(loss, ema):
    torch.manual_seed(0)
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learner = made_up_learner(
        model,
        made_up_info("abc"),
        loss=loss,
        train=Train(ema=ema),
    )
    random = torch.get_rng_state()
    result = learner.fit_head(batches(), batches())
    assert torch.equal(torch.get_rng_state(), random) and model.training
    after = model.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        "fc.weight",
        "fc.bias",
    }
    judged = learner.judge(batches())
    assert judged.loss == pytest.approx(float(result.total) / float(result.weight), rel=1e-5)
    assert judged.accuracy == int(result.correct) / result.images > 0.6


def test_one_logistic_output_is_fitted_too():
    torch.manual_seed(0)
    model = Net(1)
    model.register_forward_hook(two_logits)
    learner = made_up_learner(model, loss=BCE())
    result = learner.fit_head(batches(2))
    judged = learner.judge(batches(2))
    assert judged.loss == pytest.approx(float(result.total) / 60, rel=1e-5)
    assert judged.accuracy > 0.6 and math.isfinite(judged.loss)


def test_balanced_sampling_reaches_the_fit(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "nanocnn.training.learner.fit",
        lambda train, val, rows, loss, balanced, stop: (
            seen.append(balanced) or fit(train, val, rows, loss)
        ),
    )
    made_up_learner(Net(), made_up_info("abc"), data=Data(sampling="balanced")).fit_head(batches())
    assert seen == [True]


@pytest.mark.parametrize(
    "model, said",
    [
        (Net(after=nn.LogSoftmax(1)), "computes something after its last linear layer"),
        (nn.Sequential(nn.Conv2d(1, 3, 6), nn.Flatten()), "ends in no linear layer"),
    ],
)
def test_a_network_with_another_end_is_refused(model, said):
    learner = made_up_learner(model, made_up_info("abc"))
    with pytest.raises(UserError, match=said):
        learner.fit_head(batches())
    assert model.training


def test_frozen_statistics_stay_and_the_backbone_learns_slower():
    def moved(optimizer, **options):
        torch.manual_seed(0)
        model = Net()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        learner = made_up_learner(
            model, made_up_info("abc"), optimizer=optimizer, train=Train(**options)
        )
        torch.manual_seed(0)
        learner.step(*batches()[0], lr=0.1)
        return {name: value - before[name] for name, value in model.state_dict().items()}

    plain = moved(SGD(momentum=0))
    slow = moved(SGD(momentum=0, backbone_lr_mult=0.1))
    torch.testing.assert_close(slow["body.1.weight"], plain["body.1.weight"] / 10)
    assert torch.equal(slow["fc.weight"], plain["fc.weight"])
    none = moved(SGD(momentum=0, backbone_lr_mult=0))
    assert {name for name, value in none.items() if value.any()} == {"fc.weight", "fc.bias"}
    kept = moved(SGD(momentum=0), freeze_statistics=True)
    assert plain["body.2.running_mean"].any() and not kept["body.2.running_mean"].any()
    assert kept["body.1.weight"].any()


def test_what_cannot_act_is_refused():
    with pytest.raises(UserError, match="without batch normalisation"):
        made_up_learner(
            nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), train=Train(freeze_statistics=True)
        )
    groups = [Group(match="body.*", lr_mult=0.5)]
    with pytest.raises(UserError, match="backbone_lr_mult: cannot act"):
        made_up_learner(Net(2), optimizer=SGD(groups=groups, backbone_lr_mult=0.1))
