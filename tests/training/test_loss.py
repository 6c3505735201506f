"""The losses, against torch, their formulas and their gradients by hand."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import build_model, load_config, made_up_info, restore

from nanocnn.config.schema import BCE, MSE, Config, CrossEntropy, Focal
from nanocnn.images.sets import DATASETS, DataSet, read_digits
from nanocnn.system.errors import UserError
from nanocnn.training.loss import build_loss

INFO = made_up_info("abcd", counts=(10, 30, 40, 20))
LABELS = torch.tensor([0, 3, 1, 1, 2])
WEIGHTS = [1.0, 2.0, 0.5, 3.0]  # of the classes


def some_logits(classes=4):
    return 3 * torch.randn(5, classes, generator=torch.Generator().manual_seed(0))


def mean_loss(config, logits, labels, info=INFO):
    """The loss of all images together, divided once."""
    total, weight = build_loss(config, info)(logits, labels)
    return total / weight


def test_label_smoothing_follows_its_formula():
    """Szegedy et al. (2016): the target is 1 - s on the label, and s over all classes alike."""
    logits, share = some_logits(), 0.2
    target = (1 - share) * F.one_hot(LABELS, 4) + share / 4
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    found = mean_loss(CrossEntropy(label_smoothing=share), logits, LABELS)
    torch.testing.assert_close(found, expected)


def test_class_weights_are_those_of_torch():
    expected = F.cross_entropy(some_logits(), LABELS, torch.tensor(WEIGHTS))
    found = mean_loss(CrossEntropy(class_weights=WEIGHTS), some_logits(), LABELS)
    torch.testing.assert_close(found, expected)


def test_an_image_has_the_weight_of_its_label_before_smoothing():
    """torch weighs the smoothed share by the class that it falls on: a rare class attracts all."""
    share, weights = 0.1, torch.tensor(WEIGHTS)
    target = (1 - share) * F.one_hot(LABELS, 4) + share / 4
    losses = -(target * some_logits().log_softmax(1)).sum(1)
    expected = (weights[LABELS] * losses).sum() / weights[LABELS].sum()
    config = CrossEntropy(label_smoothing=share, class_weights=WEIGHTS)
    torch.testing.assert_close(mean_loss(config, some_logits(), LABELS), expected)


LOSSES = [
    CrossEntropy(),
    CrossEntropy(label_smoothing=0.1),
    CrossEntropy(class_weights=WEIGHTS),
    CrossEntropy(label_smoothing=0.1, class_weights=WEIGHTS),
    MSE(),
    Focal(),
    Focal(class_weights=WEIGHTS),
]


def labels_for(config, mixed):
    """LABELS, or where the loss takes them shares of two classes."""
    if not mixed:
        return LABELS
    if not config.takes_soft_labels:
        pytest.skip(f"{config.name} takes no shares")
    return 0.3 * F.one_hot(LABELS, 4).float() + 0.7 * F.one_hot(LABELS.flip(0), 4).float()


def gradient(config, logits, labels):
    """Of the loss of all images together."""
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(mean_loss(config, logits, labels), logits)[0]


@pytest.mark.parametrize("mixed", [False, True], ids=["labels", "shares"])
@pytest.mark.parametrize("config", LOSSES, ids=str)
def test_the_parts_of_a_batch_make_the_loss_of_the_whole(config, mixed):
    loss, labels, logits = build_loss(config, INFO), labels_for(config, mixed), some_logits()
    parts = [
        loss(part, truth) for part, truth in zip(logits.split(2), labels.split(2), strict=True)
    ]
    total, weight = loss(logits, labels)
    torch.testing.assert_close(sum(part[0] for part in parts), total)
    assert float(sum(part[1] for part in parts)) == pytest.approx(float(weight))
    assert float(loss.weight(labels)) == pytest.approx(float(weight))


@pytest.mark.parametrize("mixed", [False, True], ids=["labels", "shares"])
@pytest.mark.parametrize("config", LOSSES, ids=str)
def test_images_twice_and_weights_times_ten_change_nothing(config, mixed):
    labels, logits = labels_for(config, mixed), some_logits()
    once = gradient(config, logits, labels)
    twice = gradient(config, logits.repeat(2, 1), torch.cat([labels, labels]))
    torch.testing.assert_close(2 * twice[:5], once)
    if getattr(config, "class_weights", None):
        scaled = config.model_copy(update={"class_weights": [10 * w for w in WEIGHTS]})
        torch.testing.assert_close(gradient(scaled, logits, labels), once)
        same = config.model_copy(update={"class_weights": [7.0] * 4})
        none = config.model_copy(update={"class_weights": None})
        torch.testing.assert_close(gradient(same, logits, labels), gradient(none, logits, labels))


@pytest.mark.parametrize("kind", [CrossEntropy, Focal])
@pytest.mark.parametrize("factor", [2.0**124, 2.0**60, 2.0**-60, 2.0**-121])
def test_weights_that_float32_cannot_add_up_count_by_their_ratios(kind, factor):
    logits = some_logits()
    once = gradient(kind(class_weights=WEIGHTS), logits, LABELS)
    config = kind(class_weights=[factor * weight for weight in WEIGHTS])
    assert torch.equal(gradient(config, logits, LABELS), once)
    assert mean_loss(config, logits, LABELS) == mean_loss(
        kind(class_weights=WEIGHTS), logits, LABELS
    )


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16], ids=str)
def test_mixed_labels_weigh_the_same_in_every_precision(precision):
    loss = build_loss(CrossEntropy(class_weights=[1.001, 70_000.0, 3.0]), made_up_info("abc"))
    labels = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.301, 0.699]])
    expected = loss.weights(labels)
    with torch.autocast("cpu", precision):
        assert torch.equal(loss.weights(labels), expected)
    assert expected.tolist() == pytest.approx([7000.9009, 21072.097])


def test_weights_as_people_write_them_are_taken_as_they_are():
    """What a checkpoint has of an epoch's first part is a sum with them."""
    for weights in ([1.0, 2.0, 0.1, 5.0], [1e6, 1e-6, 3.0, 1.0]):
        found = build_loss(CrossEntropy(class_weights=weights), INFO).class_weights
        assert torch.equal(found, torch.tensor(weights))


def test_a_run_with_huge_weights_is_that_with_equal_ones(script):
    rows = []
    for weight in ("1", "1e38", "1e-37"):
        weights = f"loss.class_weights=[{', '.join([weight] * 10)}]"
        quick = ["model={name: mlp, hidden: [8]}", "data.limit=100", "train.epochs=1"]
        done = script("train.py", weights, *quick, "--run-dir", weight)
        assert done.code == 0, done.error
        rows.append(json.loads(Path(weight, "metrics.jsonl").read_text()))
    losses = [row["val_loss"] for row in rows]
    assert losses == pytest.approx(losses[:1] * 3, rel=1e-5)


def test_weights_that_are_too_far_apart_are_refused(script):
    weights = "loss.class_weights=[1e38, 1e-37, 1, 1, 1, 1, 1, 1, 1, 1]"
    done = script("train.py", weights, "--run-dir", "run")
    assert done.code == 2 and "1e+38 is more than 1e+30 times 1e-37" in done.error
    assert not Path("run").exists()


@pytest.mark.parametrize("mixed", [False, True], ids=["labels", "shares"])
@pytest.mark.parametrize("config", LOSSES, ids=str)
def test_classes_in_another_order_have_their_gradients_in_that_order(config, mixed):
    order, labels, logits = torch.tensor([2, 0, 3, 1]), labels_for(config, mixed), some_logits()
    moved = labels[:, order] if mixed else order.argsort()[labels]
    other = config
    if getattr(config, "class_weights", None):
        other = config.model_copy(update={"class_weights": [WEIGHTS[i] for i in order]})
    found = gradient(other, logits[:, order], moved)
    torch.testing.assert_close(found, gradient(config, logits, labels)[:, order])


@pytest.mark.parametrize("kind", [CrossEntropy, Focal])
def test_balanced_weights_make_each_class_count_alike(kind):
    weights = build_loss(kind(class_weights="balanced"), INFO).class_weights
    torch.testing.assert_close(weights, torch.tensor([2.5, 0.8333333, 0.625, 1.25]))
    torch.testing.assert_close(weights * torch.tensor(INFO.class_counts), torch.full((4,), 25.0))


def test_mse_is_half_the_squared_error_and_its_gradient_the_error():
    logits = torch.tensor([[1.0, 2.0], [0.5, -1.0], [0.0, 0.0]], requires_grad=True)
    loss = mean_loss(MSE(), logits, torch.tensor([0, 1, 1]))
    # errors (0, 2), (0.5, -2), (0, -1)
    assert loss.item() == pytest.approx((4 + 0.25 + 4 + 1) / (2 * 3))
    loss.backward()
    error = torch.tensor([[0.0, 2.0], [0.5, -2.0], [0.0, -1.0]])
    torch.testing.assert_close(logits.grad, error / 3)


def test_bce_is_that_of_torch_with_its_gradient():
    z = some_logits(1).requires_grad_()
    labels = torch.tensor([0, 1, 1, 0, 1])
    (expected,) = torch.autograd.grad(
        F.binary_cross_entropy_with_logits(z.squeeze(1), labels.float()), z
    )
    logits = torch.cat([torch.zeros(5, 1), z], 1)
    loss = mean_loss(BCE(), logits, labels)
    (found,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.squeeze(1), (torch.sigmoid(z.squeeze(1)) - labels) / 5)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss_follows_its_formula(gamma):
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0])
    p = some_logits().softmax(1)[range(5), LABELS]
    losses = -((1 - p) ** gamma) * p.log()
    torch.testing.assert_close(mean_loss(Focal(gamma=gamma), some_logits(), LABELS), losses.mean())
    weighted = (weights[LABELS] * losses).sum() / weights[LABELS].sum()
    config = Focal(gamma=gamma, class_weights=weights.tolist())
    torch.testing.assert_close(mean_loss(config, some_logits(), LABELS), weighted)


@pytest.mark.parametrize("class_weights", [None, "balanced", [1.0, 2.0, 0.5, 3.0]])
def test_focal_loss_without_focus_is_the_cross_entropy(class_weights):
    focal = Focal(gamma=0.0, class_weights=class_weights)
    plain = CrossEntropy(class_weights=class_weights)
    found, expected = (mean_loss(config, some_logits(), LABELS) for config in (focal, plain))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_has_a_gradient_for_a_certain_image(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    mean_loss(Focal(gamma=gamma), logits, torch.tensor([0, 0])).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.0], [-0.5, 0.5]]))


@pytest.mark.parametrize(
    "config",
    [CrossEntropy(), CrossEntropy(label_smoothing=0.1, class_weights=[1.0, 2.0, 0.5, 3.0]), MSE()],
)
def test_soft_labels_are_taken_where_a_loss_says_so(config):
    """A mixture of two labels costs the mixture of what each costs."""
    assert config.takes_soft_labels
    loss = build_loss(config, INFO)
    one, other = F.one_hot(LABELS, 4).float(), F.one_hot(LABELS.flip(0), 4).float()
    logits, mixture = some_logits(), 0.3 * one + 0.7 * other
    weights = torch.ones(4)
    if isinstance(config, MSE):
        losses = ((logits - mixture) ** 2).sum(1) / 2
    else:
        share = config.label_smoothing
        target = (1 - share) * mixture + share / 4
        losses = -(target * logits.log_softmax(1)).sum(1)
        weights = torch.tensor(config.class_weights or [1.0] * 4)
    total, weight = loss(logits, mixture)
    torch.testing.assert_close(total, (mixture @ weights * losses).sum())
    assert float(weight) == pytest.approx((mixture @ weights).sum().item())
    torch.testing.assert_close(loss(logits, one)[0], loss(logits, LABELS)[0])
    assert not Focal.takes_soft_labels and not BCE.takes_soft_labels


@pytest.fixture
def parity(monkeypatch):
    """Real digits as two classes, even and odd."""

    def read(root, train):
        images, labels = read_digits(root, train)
        return images, labels % 2

    dataset = DataSet(read, ["even", "odd"], (1, 28, 28), mean=[0.3057], std=[0.3248])
    monkeypatch.setitem(DATASETS, "digits", dataset)


MLP = "model={name: mlp, hidden: [32]}"


def test_a_network_with_one_logistic_output_learns_and_is_judged_like_any_other(parity, script):
    options = ["loss={name: bce}", MLP, "train.epochs=5", "--run-dir", "run"]
    trained = script("train.py", *options)
    assert trained.code == 0, trained.error
    report = json.loads(script("test.py", "--ckpt", "run", "--json", "-").out)
    assert report["accuracy"] >= 0.85
    assert [sum(row) for row in report["confusion"]] == [c["support"] for c in report["per_class"]]
    assert all(row[i] > 100 for i, row in enumerate(report["confusion"]))

    model, _, info, *_ = restore(Path("run/best.pt"))
    last = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)][-1]
    assert last.out_features == 1
    images = torch.randn(20, *info.image_shape, generator=torch.Generator().manual_seed(0))
    z = []
    last.register_forward_hook(lambda layer, inputs, output: z.append(output))
    logits = model.eval()(images)
    assert torch.equal(logits.argmax(1), (z[0].squeeze(1) > 0).long())
    torch.testing.assert_close(logits.softmax(1)[:, 1:], torch.sigmoid(z[0]))


def test_auxiliary_heads_have_one_logistic_output_too():
    torch.manual_seed(0)
    model = build_model("googlenet", (1, 28, 28), 2, logistic=True, width=0.125)
    logits, *auxiliary = model.train()(torch.randn(2, 1, 28, 28))
    for found in (logits, *(extra for _, extra in auxiliary)):
        assert found.shape == (2, 2) and not found[:, 0].any() and found[:, 1].all()
    assert [weight for weight, _ in auxiliary] == [0.3, 0.3]


def test_the_loss_of_test_py_is_that_of_the_run_whatever_the_batch(script):
    options = [
        "loss={name: focal, class_weights: balanced}",
        MLP,
        "train.epochs=1",
        "data.limit=300",
    ]
    assert script("train.py", *options, "--run-dir", "run").code == 0
    (row,) = map(json.loads, Path("run/metrics.jsonl").read_text().splitlines())
    _, config, info, *_ = restore(Path("run/best.pt"))
    assert sum(info.class_counts) == 270 and len(info.class_counts) == 10
    assert build_loss(config.loss, info).class_weights.numel() == 10
    for batch_size in (1, 7, 1000):
        arguments = ["--ckpt", "run", "--split", "val", "--json", "-", "--batch-size", batch_size]
        report = json.loads(script("test.py", *arguments).out)
        assert report["loss"] == pytest.approx(row["val_loss"], rel=1e-5)


REFUSED = {
    "loss={name: mse, label_smoothing: 0.1}": "unknown key 'loss.label_smoothing'",
    "loss={name: bce, class_weights: balanced}": "unknown key 'loss.class_weights'",
    "loss={gamma: 2}": "unknown key 'loss.gamma'",
    "loss={name: focal, gamma: -1}": "loss.gamma = -1: should be greater than or equal to 0",
    "loss={class_weights: even}": "loss.class_weights = even: should be a valid list or",
    "loss={class_weights: [1, -2]}": "loss.class_weights.1 = -2: should be greater than 0",
    "loss={class_weights: [1, 2]}": "should be one for each of the 10 classes of digits",
    "loss={name: bce}": "loss.name = bce: one logistic output tells two classes apart, not 10",
    "loss={name: hinge}": "(known: cross_entropy, mse, bce, focal)",
}


@pytest.mark.parametrize("override", REFUSED)
def test_a_loss_that_cannot_be_is_refused_in_one_line(override, script, tmp_path):
    result = script("train.py", override)
    assert result.code == 2 and result.error.count("\n") == 1
    assert REFUSED[override] in result.error
    assert not list(tmp_path.iterdir())


def test_balanced_weights_need_an_image_of_each_class():
    info = made_up_info("ab", counts=(7, 0))
    with pytest.raises(UserError, match="balanced: no training image is of the class 'b'"):
        build_loss(CrossEntropy(class_weights="balanced"), info)


def test_the_default_loss_is_plain_cross_entropy():
    info = made_up_info("0123456789")
    logits = some_logits(10)
    found = mean_loss(Config().loss, logits, LABELS, info)
    torch.testing.assert_close(found, F.cross_entropy(logits, LABELS))
    assert load_config("digits.yaml").loss == Config().loss
