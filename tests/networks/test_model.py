"""The networks: sizes by hand, and a new one with a class and a line."""

import shutil
import subprocess
import sys

import pytest
import torch
import torchvision
from conftest import PROJECT, build_model, load_config, restore, small, train
from torch import nn

from model import MODELS
from nanocnn.config.schema import Data, Train
from nanocnn.networks.convnet import ACTIVATIONS
from nanocnn.system.errors import UserError

pytestmark = pytest.mark.slow


def test_lenet_has_the_parameters_of_its_layers():
    model = build_model("lenet", (1, 28, 28), 10)
    sizes = [
        25 * 1 * 3 * 3,  # convolution, no bias: 28 -> 26
        2 * 25,  # batch normalisation; pooling: 26 -> 13
        50 * 25 * 3 * 3,  # 13 -> 11
        2 * 50,  # pooling: 11 -> 5
        50 * 5 * 5 * 1024 + 1024,
        1024 * 128 + 128,
        128 * 10 + 10,
    ]
    assert sum(p.numel() for p in model.parameters()) == sum(sizes) == 1_425_139
    kinds = [type(layer).__name__ for layer in model.modules() if not list(layer.children())]
    block = ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    assert kinds == [*block, *block, "Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize("shape, classes", [((1, 28, 28), 10), ((3, 32, 40), 7)])
@pytest.mark.parametrize("name", MODELS)
def test_every_network_fits_its_data_and_starts_untouched(name, shape, classes):
    model = build_model(name, shape, classes)
    assert model.training
    for key, buffer in model.named_buffers():
        if key.endswith("running_mean"):
            assert buffer.abs().sum() == 0, "the trial image left its mean in the network"
    assert model.eval()(torch.rand(2, *shape)).shape == (2, classes)


def test_a_map_that_collapses_is_refused_with_its_layer():
    with pytest.raises(
        UserError, match=r"lenet.*1x6x6.*features\.4 = Conv2d.*25x2x2.*works is 10x10"
    ):
        build_model("lenet", (1, 6, 6), 10)
    with pytest.raises(
        UserError, match=r"1x9x30.*features\.7 = MaxPool2d.*50x1x12.*works is 10x10"
    ):
        build_model("lenet", (1, 9, 30), 10)
    build_model("lenet", (1, 10, 10), 10)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("name", MODELS)
def test_every_network_lowers_its_loss_in_three_steps(name, shape):
    torch.manual_seed(0)
    model = build_model(name, shape, 10, {"name": "kaiming", "bias": 0.0}, **small(name))
    images, labels = torch.randn(8, *shape), torch.arange(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005)
    losses = []
    for _ in range(4):
        torch.manual_seed(1)  # the same units drop out
        outputs = model(images)
        logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = nn.functional.cross_entropy(logits, labels)
        for weight, extra in auxiliary:
            loss = loss + weight * nn.functional.cross_entropy(extra, labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[3] < losses[0]


def theirs_and_ours(name, **arguments):
    """A published network of torchvision, and ours with its weights, in the order of their
    layers.
    """
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None).eval()
    ours = build_model(name.removesuffix("_bn"), (3, 224, 224), 1000, **arguments).eval()
    return theirs, ours


def assert_equal_logits(theirs, ours):
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "vgg13", "vgg16", "resnet18"])
def test_a_published_network_is_torchvisions(name):
    theirs, ours = theirs_and_ours(name)
    published = list(theirs.state_dict().values())
    assert [p.shape for p in ours.state_dict().values()] == [p.shape for p in published]
    ours.load_state_dict(dict(zip(ours.state_dict(), published, strict=True)))
    assert_equal_logits(theirs, ours)


def test_vgg11_with_batch_norm_is_torchvisions_but_for_the_useless_biases():
    theirs, ours = theirs_and_ours("vgg11_bn", norm="batch")
    biases = 0
    published = dict(theirs.state_dict())
    for index, layer in enumerate(theirs.features):
        if isinstance(layer, nn.Conv2d):  # the mean that is subtracted next holds the bias as well
            bias = published.pop(f"features.{index}.bias")
            published[f"features.{index + 1}.running_mean"] -= bias
            biases += bias.numel()
    ours.load_state_dict(dict(zip(ours.state_dict(), published.values(), strict=True)))
    counts = [sum(p.numel() for p in model.parameters()) for model in (theirs, ours)]
    assert counts[0] - counts[1] == biases
    assert_equal_logits(theirs, ours)


def test_googlenet_with_its_bug_of_3x3_is_torchvisions():
    torch.manual_seed(0)
    theirs = torchvision.models.googlenet(weights=None, init_weights=True).eval()
    ours = build_model("googlenet", (3, 224, 224), 1000, large_kernel=3).eval()
    published = theirs.state_dict()
    ordered = [p for key, p in published.items() if "aux" not in key]
    ordered += [p for key, p in published.items() if "aux" in key]
    assert [p.shape for p in ours.state_dict().values()] == [p.shape for p in ordered]
    ours.load_state_dict(dict(zip(ours.state_dict(), ordered, strict=True)))
    for layer in ours.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-3
    ours.to_5b[1] = nn.MaxPool2d(2, stride=2, ceil_mode=True)  # the paper has windows of 3
    assert_equal_logits(theirs, ours)


def test_the_published_googlenet_trains_two_auxiliary_heads_with_weight_0_3():
    model = build_model("googlenet", (3, 32, 32), 10, width=0.25)
    logits, *auxiliary = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    assert [(weight, extra.shape) for weight, extra in auxiliary] == [(0.3, (2, 10))] * 2
    assert model.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_lenet5_has_the_layers_of_its_paper():
    counts = [p.numel() for p in build_model("lenet5", (1, 28, 28), 10).parameters()]
    layers = [sum(pair) for pair in zip(counts[::2], counts[1::2], strict=True)]
    # C1, S2, C3 (1,516 with the table of the paper), S4, C5, F6 as there; a linear output
    assert layers == [156, 12, 16 * (6 * 25 + 1), 32, 48_120, 10_164, 850]
    published = build_model("lenet5", (1, 32, 32), 10)
    assert [p.numel() for p in published.parameters()] == counts


def test_convnet_in_the_shape_of_lenet_is_lenet():
    lenet = build_model("lenet", (1, 28, 28), 10)
    same = build_model(
        "convnet", (1, 28, 28), 10, channels=[[25], [50]], padding=0, hidden=[1024, 128]
    )
    same.load_state_dict(lenet.state_dict())
    images = torch.randn(5, 1, 28, 28)
    torch.testing.assert_close(same.eval()(images), lenet.eval()(images))


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("pool", ["max", "average", "gaussian", "learned"])
def test_convnet_takes_every_combination(norm, activation, pool):
    sizes = {}
    for odd in ("floor", "pad"):
        model = build_model(
            "convnet", (2, 13, 13), 3, channels=[[4, 4], [6]], groups=[2, 1], norm=norm,
            activation=activation, pool=pool, odd=odd, hidden=[8], dropout=0.1,
        )  # fmt: skip
        assert model(torch.randn(2, 2, 13, 13)).shape == (2, 3)
        sizes[odd] = model.features(torch.randn(2, 2, 13, 13)).shape[2:]
    assert sizes == {"floor": (3, 3), "pad": (4, 4)}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"kernel": [3, 3, 3]}, r"model\.kernel = \[3, 3, 3\].*2 blocks"),
        ({"groups": 3}, "convnet.*groups"),
        ({"dropout": 2.0}, "convnet.*dropout"),
        ({"stride": 0}, "convnet.*stride"),
        ({"stride": 2}, "convnet.*padding='same'"),
        ({"channels": [[0]]}, "convnet"),
        ({"pool_stride": 0, "odd": "pad"}, "convnet"),
    ],
)
def test_arguments_that_make_no_network_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        build_model("convnet", (1, 28, 28), 10, **arguments)


def test_a_network_that_returns_something_else_is_refused(monkeypatch):
    monkeypatch.setitem(MODELS, "maps", lambda image_shape, num_classes: nn.Conv2d(1, 4, 3))
    with pytest.raises(UserError, match=r"maps returns 1x4x26x26.*1x10 logits"):
        build_model("maps", (1, 28, 28), 10)


@pytest.mark.parametrize(
    "architecture", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "googlenet", "vit_b_32"]
)
def test_any_network_of_torchvision_is_fitted_to_the_data(architecture):
    model = build_model(f"torchvision.{architecture}", (1, 64, 64), 7)
    outputs = model(torch.randn(2, 1, 64, 64))
    logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    assert logits.shape == (2, 7)
    assert [(weight, extra.shape) for weight, extra in auxiliary] == [(0.3, (2, 7))] * (
        2 if architecture == "googlenet" else 0
    )


def test_an_unknown_network_of_torchvision_is_refused():
    with pytest.raises(UserError, match=r"resnet81.*did you mean 'resnet18'"):
        build_model("torchvision.resnet81", (3, 64, 64), 7)


def test_pretrained_weights_stay_but_for_what_is_fitted(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = torchvision.models.resnet18(weights=None)
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    file = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(published.state_dict(), file)
    model = build_model("torchvision.resnet18", (1, 64, 64), 7, pretrained=True).network
    torch.testing.assert_close(model.conv1.weight, published.conv1.weight.sum(1, keepdim=True))
    assert torch.equal(model.layer4[1].conv2.weight, published.layer4[1].conv2.weight)
    assert model.fc.weight.shape == (7, 512)

    # a checkpoint of it needs the published weights no more
    config = load_config("digits.yaml", ["model={name: torchvision.resnet18, pretrained: true}"])
    run = train(
        config.model_copy(update={"train": Train(epochs=1), "data": Data(limit=20)}),
        tmp_path / "run",
    )
    file.unlink()
    monkeypatch.setattr("torch.hub.download_url_to_file", None)
    restored = restore(run / "best.pt").model
    assert restored.network.fc.weight.shape == (10, 512)


def initialised(**init):
    torch.manual_seed(0)
    arguments = {"channels": [[64], [64]], "norm": "none", "hidden": [500]}
    return build_model("convnet", (3, 28, 28), 10, {"bias": 0.0} | init, **arguments)


def test_kaiming_and_xavier_suit_the_activation_that_follows():
    def std(model):
        return [layer.weight.std().item() for layer in model.modules() if hasattr(layer, "weight")]

    fans = [(27, 576), (576, 576), (3136, 500), (500, 10)]
    kaiming = [(gain / fan_in) ** 0.5 for (fan_in, _), gain in zip(fans, (2, 2, 2, 1), strict=True)]
    assert std(initialised(name="kaiming")) == pytest.approx(kaiming, rel=0.05)
    xavier = [
        gain * (2 / (fan_in + fan_out)) ** 0.5
        for (fan_in, fan_out), gain in zip(fans, (2**0.5, 2**0.5, 2**0.5, 1), strict=True)
    ]
    assert std(initialised(name="xavier")) == pytest.approx(xavier, rel=0.05)
    assert std(initialised(name="normal", std=0.02)) == pytest.approx([0.02] * 4, rel=0.05)
    biases = [
        p for name, p in initialised(name="kaiming", bias=0.1).named_parameters() if "bias" in name
    ]
    assert all((bias == 0.1).all() for bias in biases)


@pytest.mark.parametrize(
    "activation, gain",
    [
        ("leaky_relu", (2 / (1 + 0.01**2)) ** 0.5),
        ("tanh", 5 / 3),
        ("sigmoid", 1),
        ("gelu", 2**0.5),
        ("maxout", 1),
    ],
)
def test_kaiming_knows_the_gain_of_each_activation(activation, gain):
    torch.manual_seed(0)
    arguments = {"channels": [[64]], "norm": "none", "activation": activation, "hidden": []}
    model = build_model("convnet", (3, 28, 28), 10, {"name": "kaiming", "bias": 0.0}, **arguments)
    assert model.features[0].weight.std().item() == pytest.approx(gain / 27**0.5, rel=0.05)


def test_initialising_what_is_pretrained_is_refused():
    with pytest.raises(UserError, match="pretrained"):
        build_model(
            "torchvision.resnet18",
            (3, 64, 64),
            7,
            {"name": "kaiming", "bias": 0.0},
            pretrained=True,
        )


NEW_NETWORK = """
class Tiny(nn.Module):
    def __init__(self, image_shape: ImageShape, num_classes: int, width: int = 8):
        super().__init__()
        hidden = [nn.Flatten(), nn.LazyLinear(width), nn.ReLU()]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "tiny": Tiny,
"""


def test_a_new_network_is_a_class_and_a_line_in_model_py(tmp_path):
    for path in PROJECT.glob("*.py"):
        shutil.copy(path, tmp_path)
    shutil.copytree(PROJECT / "configs", tmp_path / "configs")
    source = (tmp_path / "model.py").read_text()
    head = "\nMODELS: dict[str, Callable[..., nn.Module]] = {\n"
    assert source.count(head) == 1
    (tmp_path / "model.py").write_text(source.replace(head, NEW_NETWORK))

    def run(*command):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    out = run("train.py", "model={name: tiny, width: 16}", "train.epochs=1", "--run-dir", "run")
    assert f"{784 * 16 + 16 + 16 * 10 + 10:,} parameters" in out
    assert "accuracy" in run("test.py", "--ckpt", "run")


def test_airbench_has_the_parameters_of_its_paper():
    """1,972,792 at 3x32x32, of which the filters that whiten and the normalisations' scales are not
    trained.
    """
    model = build_model("airbench", (3, 32, 32), 10)
    assert sum(p.numel() for p in model.parameters()) == 1_972_792
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    norms = (2, 5, 9, 12, 16, 19)
    assert frozen == {"whiten.0.weight", *(f"groups.{place}.weight" for place in norms)}
    images = torch.randn(2, 24, 31, 31)
    with torch.no_grad():
        torch.testing.assert_close(
            model.groups[0](images)[:, :24], images
        )  # begins as the identity
