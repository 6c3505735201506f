"""Several processes train as one does, judge as one does, and end together."""

import contextlib
import os
import signal
import time
from functools import partial

import pytest
import torch
from conftest import CPU, load_config, made_up_info
from several import Several, values
from torch import nn

from nanocnn.config.schema import SGD, Augment, Config, CrossEntropy, Train
from nanocnn.evaluation.tables import figures
from nanocnn.images.batches import Batches
from nanocnn.images.sharing import Cut, Share, parts_of
from nanocnn.images.splits import Split
from nanocnn.networks.norm_pool import NormPool
from nanocnn.system.errors import NonFiniteError, UserError
from nanocnn.training import processes as room
from nanocnn.training.batch_norm import refuse_others, synchronised
from nanocnn.training.device import Computing
from nanocnn.training.learner import Learner
from nanocnn.training.processes import Group, Processes

STEPS, BATCH = 50, 32
COUNT = 3 * BATCH + 2  # the last step of an epoch has two images, so that one of three has none
CLASSES = "abcde"


def made_up(count=COUNT, side=8):
    """Noise, brighter from class to class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 5
    noise = torch.randint(0, 100, (count, 1, side, side), generator=generator)
    return Split((noise + 30 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)


def network(norm):
    torch.manual_seed(0)
    first, second = (nn.BatchNorm2d(size) if norm else nn.Identity() for size in (6, 8))
    return nn.Sequential(  # a bias before a norm has a gradient of rounding errors alone
        nn.Conv2d(1, 6, 3, padding=1, bias=not norm), first, nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, bias=not norm), second, nn.Tanh(), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip


def learner_of(processes, norm, kind, layout=torch.contiguous_format, **options):
    info = made_up_info(CLASSES, (1, 8, 8), counts=(COUNT // 5,) * 4 + (COUNT - 4 * (COUNT // 5),))
    config = Config().model_copy(
        update={
            "optimizer": SGD(lr=0.05, momentum=0.9, weight_decay=1e-3),
            "loss": CrossEntropy(class_weights=[1.0, 2.0, 0.5, 3.0, 1.5], label_smoothing=0.1),
            "train": Train(batch_size=BATCH, **options),
        }
    )
    computing = Computing(CPU, torch.float32, layout, processes)
    learner = Learner(network(norm), config, info, computing)
    for part in (learner.model, learner.loss, *((learner._ema and [learner._ema.module]) or [])):
        part.to(kind)
    return learner


def trained(processes, norm, kind=torch.float64, permuted=False, **options):
    """The state after STEPS steps, the gradient of the first, and what each step told."""
    learner = learner_of(processes, norm, kind, **options)
    accumulate = options.get("accumulate", 1)
    assert sum(isinstance(each, NormPool) for each in learner._trained.modules()) == norm
    batches = Batches(
        made_up(), learner._info, BATCH * accumulate, CPU, processes.share, accumulate
    )
    told, gradient = [], {}
    for epoch in range(STEPS):
        for _, images, labels in batches.shuffled(0, epoch, Augment(mixup=0.4, shift=1)):
            if permuted:
                order = torch.randperm(len(images))
                images, labels = images[order], labels[order]
            result = learner.step(images.to(kind), labels.to(kind), 0.05)
            told += [float(result.total), float(result.correct), result.images]
            if not gradient:
                gradient = {n: p.grad.clone() for n, p in learner.model.named_parameters()}
            if len(told) == 3 * STEPS:
                state = dict(learner.model.state_dict())
                return {key: value.clone() for key, value in state.items()}, gradient, told


def distance(one, other):
    """The largest relative L2 difference of two tensors of a name."""
    assert one.keys() == other.keys()
    pairs = [(one[key].double(), other[key].double()) for key in one]
    return max(float((a - b).norm() / a.norm().clamp(min=1e-30)) for a, b in pairs)


CASES = {
    "pooled": {"norm": True, "layout": torch.channels_last},
    "plain": {"norm": False},
    "synchronised": {"norm": True},
    "accumulated": {"norm": True, "accumulate": 3, "ema": 0.9, "clip_norm": 1.0},
}


@pytest.mark.parametrize("size", [2, 3])
def test_in_float64_several_processes_are_one(monkeypatch, size):
    """Momentum, decay, mixup, class weights, a last step of two images; batch normalisation."""
    # maps are pooled as they are normalised, but for none
    monkeypatch.setattr(NormPool, "least", 1)
    found = values(size, lambda group: [trained(group, **case) for case in CASES.values()])
    assert all(
        distance(each[0], other[0]) == 0
        for of_rank in found
        for each, other in zip(found[0], of_rank, strict=True)
    )
    for case, (state, _, told) in zip(CASES.values(), found[0], strict=True):
        expected, _, expected_told = trained(Processes(), **case)
        assert distance(expected, state) <= 1e-10, case
        assert told == pytest.approx(expected_told, rel=1e-9), case


def drop_the_last(monkeypatch):
    def of(self, count):
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    monkeypatch.setattr(Share, "of", of)


def mix_within_the_slice(monkeypatch):
    right = Cut.of

    def of(total, slices, mixes):
        cut = right(total, slices, mixes)
        return cut._replace(before=cut.own.roll(1))

    monkeypatch.setattr(Cut, "of", of)


def weigh_each_alike(monkeypatch):
    """Each divides by the weight of its own slice, and their gradients are averaged."""
    right = Learner.step

    def step(self, images, labels, lr):
        share, weight = self.computing.processes.share, self.loss.weight
        (own,) = share.slices(len(labels), parts_of(len(labels), BATCH, 1))
        self.loss.weight = lambda labels: (
            weight(labels[own.start : own.stop]).clamp(1e-9) * share.size
        )
        result = right(self, images, labels, lr)
        del self.loss.weight
        return result

    monkeypatch.setattr(Learner, "step", step)


DEFECTS = [drop_the_last, mix_within_the_slice, weigh_each_alike]


@pytest.mark.parametrize("plant", DEFECTS, ids=lambda plant: plant.__name__)
def test_a_planted_defect_is_seen(plant, monkeypatch):
    expected, *_ = trained(Processes(), norm=False)
    plant(monkeypatch)
    state, *_ = values(3, partial(trained, norm=False))[0]
    assert distance(expected, state) > 1e-6


def test_in_float32_they_differ_as_a_permuted_batch_does():
    kind = torch.float32
    control, first, _ = trained(Processes(), True, kind)
    permuted, *_ = trained(Processes(), True, kind, permuted=True)
    for size in (2, 3):
        state, gradient, _ = values(size, partial(trained, norm=True, kind=kind))[0]
        assert distance(first, gradient) <= 1e-5
        assert distance(control, state) <= 10 * distance(control, permuted)


def judged(processes, batch_size=128):
    """10,001 images, and what is reported of them."""
    learner = learner_of(processes, True, torch.float32)
    batches = Batches(made_up(10_001), learner._info, batch_size, CPU, processes.share)
    found = learner.judge(batches)
    return found, figures(found, [*CLASSES], None, None)


def test_each_image_is_judged_once_by_whatever_number_of_processes():
    expected, report = judged(Processes())
    assert len(expected.labels) == report["n"] == 10_001
    for size in (2, 3):
        for found, its_report in values(size, judged):
            assert its_report == report and found.loss == expected.loss
            assert torch.equal(found.logits, expected.logits)
            assert torch.equal(found.predictions, expected.predictions)
            assert torch.equal(found.labels, expected.labels)
            assert torch.equal(found.traits.view, expected.traits.view)


def test_fewer_batches_than_processes_are_judged():
    expected, _ = judged(Processes(), 20_000)
    for found, _ in values(3, partial(judged, batch_size=20_000)):
        assert torch.equal(found.logits, expected.logits) and found.loss == expected.loss


def dropped(processes):
    """Which units a step's dropout left out, of images that are all alike."""
    batches = Batches(made_up(), made_up_info(CLASSES, (1, 8, 8)), BATCH, CPU, processes.share)
    next(batches.shuffled(0, 0, Augment()))
    return nn.Dropout(0.5)(torch.ones(64)).tolist()


def test_no_two_processes_drop_the_same_units():
    one, two = values(2, dropped)
    assert one != two and [one, two] == values(2, dropped)


def without_sync(processes, batch_size=BATCH):
    learner_of(processes, True, torch.float32, sync_batch_norm=False)


def test_unsynchronised_batch_norm_of_too_few_images_is_refused():
    children = Several(3, without_sync).wait()
    assert [child.code for child in children] == [2, 2, 2]
    (said,) = [child.error for child in children if child.error]
    assert "train.sync_batch_norm = false: a process would have 0 images" in said
    assert said.count("\n") == 1


class Viewing(nn.Module):
    """A network as many write them, which cannot take no image."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 5)

    def forward(self, images):
        return self.layer(images.view(len(images), -1))


def view(processes):
    info = made_up_info(CLASSES, (1, 8, 8), counts=(COUNT,) + (0,) * 4)
    config = Config().model_copy(update={"train": Train(batch_size=BATCH)})
    Learner(
        Viewing(), config, info, Computing(CPU, torch.float32, torch.contiguous_format, processes)
    )


def test_a_network_that_cannot_take_no_image_is_refused():
    assert [child.code for child in Several(2, view).wait()] == [0, 0], "each has one"
    children = Several(3, view).wait()
    assert [child.code for child in children] == [2, 2, 2]
    assert "x.flatten(1) can" in "".join(child.error for child in children)


# how they end


def fail_on(rank, error, processes):
    if processes.rank == rank:
        raise error
    processes.led("something", lambda: processes.agree())
    processes.agree()


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize(
    ("error", "code"),
    [(UserError("no such key"), 2), (NonFiniteError("NaN"), 3), (OSError(28, "disk full"), 2)],
    ids=["user", "numbers", "disk"],
)
def test_a_failure_of_one_ends_all_with_one_line(rank, error, code):
    children = Several(3, partial(fail_on, rank, error)).wait(20)
    assert [child.code for child in children] == [code] * 3
    assert children[rank].error == f"error: {error}\n"
    assert "".join(child.error for child in children) == children[rank].error


def other_data(processes):
    processes.check_same({"checksum of the images": "abc"[processes.rank]})


def test_a_process_with_other_data_is_named():
    children = Several(2, other_data).wait(20)
    said = "".join(child.error for child in children)
    assert [child.code for child in children] == [2, 2] and said.count("\n") == 1
    assert "process 1 of 2" in said and "checksum of the images" in said and "(b, not a)" in said


def exchange_for_ever(processes):
    while True:
        processes.agree()


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
def test_a_process_that_is_no_more_or_stopped_is_named(monkeypatch, how):
    """With a limit of 60 seconds; here it is shorter."""
    monkeypatch.setattr(room, "TIMEOUT", 2.0)
    monkeypatch.setattr(room, "BEAT", 0.2)
    several = Several(3, exchange_for_ever)
    time.sleep(1.0)
    os.kill(several.pids[1], getattr(signal, how))
    children = several.wait(20)
    said = "".join(child.error for child in children)
    assert "process 1 of 3" in said and said.count("error:") == 1
    assert children[0].code == children[2].code == 2
    # that of a stopped one, which goes on to find the others gone
    assert children[1].code == (-signal.SIGKILL if how == "SIGKILL" else 2)


def wait_long(seconds, processes):
    def act():
        if processes.rank == 0:
            time.sleep(seconds)
        return 5

    with contextlib.suppress(AttributeError):
        assert processes.led("a long thing", act) == 5
    return processes.told(processes.rank)


def test_a_long_wait_is_no_failure_and_says_who_is_waited_for(monkeypatch):
    monkeypatch.setattr(room, "TIMEOUT", 1.0)
    monkeypatch.setattr(room, "LONG", 0.5)
    monkeypatch.setattr(room, "BEAT", 0.2)
    children = Several(2, partial(wait_long, 2.5)).wait(20)
    assert [child.code for child in children] == [0, 0] and children[1].value == 0
    assert "waiting for process 0 of 2" in children[1].error
    assert "a long thing" in children[1].error and children[0].error == ""


def in_turns(processes):
    began = time.monotonic()
    with processes.in_turn("the cache"):
        if processes.rank == 0:
            time.sleep(0.5)
        inside = time.monotonic() - began
    return inside


def test_the_first_of_a_machine_goes_first():
    _, *others = values(3, in_turns)
    assert min(others) > 0.3


def test_gradients_of_parameters_that_nobody_used_stay_none():
    assert values(2, unused) == [[None, 6.0]] * 2


def unused(processes):
    one, other = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    if processes.rank == 1:  # of the first process none has a part in it
        (6 * other).sum().backward()
    processes.add_up([one, other], torch.zeros(()))
    return [each.grad if each.grad is None else float(each.grad) for each in (one, other)]


def test_the_config_has_a_key_for_it():
    assert load_config("digits.yaml").train.sync_batch_norm == "auto"


class Scaled(nn.BatchNorm2d):
    def forward(self, x):
        return 3 * super().forward(x)


class Listed(nn.Module):
    """Reaches its layers by a list that is no ModuleList."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 2)
        self.steps = [self.first]

    def forward(self, images):
        for step in self.steps:
            images = step(images)
        return self.head(images.mean((2, 3)))


def usual(norm):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )


@pytest.mark.parametrize(
    "model, said",
    [
        (usual(Scaled(4)), "1 = Scaled computes in a way of its own"),
        (Listed(), "first.1 = BatchNorm2d is reached in a way of its own"),
        (usual(nn.BatchNorm2d(4)), None),
    ],
)
def test_a_normalisation_that_cannot_be_synchronised_is_refused(model, said):
    synced = synchronised(model, Group.__new__(Group), torch.device("cpu")).train()
    if said is None:
        refuse_others(model, synced, torch.zeros(2, 1, 8, 8))
    else:
        with pytest.raises(UserError, match=said):
            refuse_others(model, synced, torch.zeros(2, 1, 8, 8))
    assert synced.training and not any(layer._forward_pre_hooks for layer in model.modules())
