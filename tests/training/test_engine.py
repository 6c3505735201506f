"""The two loops, and the optimizer, checked by value."""

import pytest
import torch
from conftest import CPU, made_up_info, made_up_learner
from torch import nn

from nanocnn.config.schema import SGD, Augment
from nanocnn.evaluation.evaluate import evaluate
from nanocnn.images.batches import Batches
from nanocnn.images.splits import Split
from nanocnn.training.optimizer import build_optimizer

INFO = made_up_info("abc")


def made_up(count=50):
    """Noise, brighter from class to class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (count,), generator=generator)
    noise = torch.randint(0, 100, (count, 1, 6, 6), generator=generator)
    return Split((noise + 70 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(64, 3),
    )  # fmt: skip


def test_evaluate_divides_sums_over_images_once():
    split, model = made_up(), small_network()
    whole = (split.images.float() / 255 - 0.5) / 0.5
    model.eval()
    logits = model(whole)
    expected = nn.functional.cross_entropy(logits, split.labels).item()
    for batch_size in (1, 7, 50, 1000):
        model.train()
        result = evaluate(model, Batches(split, INFO, batch_size, CPU))
        assert result.loss == pytest.approx(expected, rel=1e-6)
        assert torch.equal(result.predictions, logits.argmax(1))
        assert result.accuracy == (logits.argmax(1) == split.labels).double().mean().item()


def train_small(epochs=3, between=lambda model: None, seed=0):
    learner = made_up_learner(small_network(), INFO)
    batches = Batches(made_up(), INFO, 8, CPU)
    steps, results = [], []
    for epoch in range(epochs):
        for step, images, labels in batches.shuffled(seed, epoch, Augment(shift=1)):
            steps.append(step)
            results.append(learner.step(images, labels, 0.01 + step / 1e5))
            assert learner.optimizer.param_groups[0]["lr"] == 0.01 + step / 1e5
        between(learner)
    return learner.model, steps, results


def test_training_counts_steps_and_lowers_the_loss():
    _, steps, results = train_small(epochs=20)
    assert steps == list(range(20 * 7))
    assert sum(result.images for result in results[:7]) == 50
    assert all(0 <= int(result.correct) <= result.images for result in results)
    losses = [float(result.total / result.weight) for result in results]
    assert sum(losses[-7:]) < 0.5 * sum(losses[:7])


def test_what_happens_between_epochs_leaves_the_weights_alone():
    """Dropout and augmentation come from (seed, step), so evaluating and logging cannot disturb
    them.
    """

    def disturb(learner):
        torch.rand(7)
        learner.judge(Batches(made_up(), INFO, 9, CPU))

    plain, disturbed, other = (
        train_small()[0].state_dict(),
        train_small(between=disturb)[0].state_dict(),
        train_small(seed=1)[0].state_dict(),
    )
    assert all(torch.equal(plain[key], disturbed[key]) for key in plain)
    assert not torch.equal(plain["0.weight"], other["0.weight"])


def test_bf16_computes_in_bf16_and_keeps_the_weights_in_fp32():
    model, seen = small_network(), []
    learner = made_up_learner(model, INFO, torch.bfloat16)
    model[-1].register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    batches = Batches(made_up(), INFO, 25, CPU)
    evaluate(model, batches, precision=torch.bfloat16)
    for _, images, labels in batches.shuffled(0, 0, Augment()):
        learner.step(images, labels, 0.1)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_losses_of_auxiliary_heads_are_added_with_their_weights():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.extra = nn.Linear(36, 3), nn.Linear(36, 3)

        def forward(self, images):
            flat = images.flatten(1)
            return (self.head(flat), (0.25, self.extra(flat))) if self.training else self.head(flat)

    torch.manual_seed(0)
    model, loss_fn = TwoHeads(), nn.CrossEntropyLoss()
    start = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    batches = Batches(made_up(20), INFO, 20, CPU)
    ((_, images, labels),) = batches.shuffled(0, 0, Augment())
    losses = [
        loss_fn(
            nn.functional.linear(images.flatten(1), start[f"{head}.weight"], start[f"{head}.bias"]),
            labels,
        )
        for head in ("head", "extra")
    ]
    gradients = torch.autograd.grad(losses[0] + 0.25 * losses[1], list(start.values()))

    learner = made_up_learner(model, INFO, optimizer=SGD(momentum=0.0))
    result = learner.step(images, labels, 0.1)
    assert float(result.total / result.weight) == pytest.approx(
        (losses[0] + 0.25 * losses[1]).item()
    )
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.detach(), start[name].detach() - 0.1 * gradient)
    assert evaluate(model, batches).predictions.shape == (20,)


@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_follows_its_formula(momentum, nesterov):
    """Sutskever et al. (2013) in PyTorch's form: v = m v + g, and the step is g + m v or v."""
    lr, decay = 0.1, 0.01
    layer = nn.Linear(3, 1, bias=False)
    weight = layer.weight.detach().clone()
    config = SGD(lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=decay)
    optimizer = build_optimizer(config, layer, (1, 6, 6))
    velocity = torch.zeros_like(weight)
    for step in range(4):
        optimizer.zero_grad()
        (layer.weight**2 * (step + 1)).sum().backward()
        optimizer.step()
        gradient = 2 * weight * (step + 1) + decay * weight
        velocity = momentum * velocity + gradient
        weight = weight - lr * (gradient + momentum * velocity if nesterov else velocity)
        torch.testing.assert_close(layer.weight.detach(), weight)
