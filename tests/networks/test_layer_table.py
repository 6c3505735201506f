"""The arithmetic of a layer: textbook figures, every kind of layer, and torch's own count."""

import pytest
import torch
from conftest import build_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model import MODELS
from nanocnn.networks.layers import GaussianPool2d, LearnedPool2d
from nanocnn.networks.table import LayerError, how, layer_table, macs, summary, trace


def calls_of(*layers, image_shape):
    return trace(nn.Sequential(*layers), image_shape)[0]


def parameters(*layers):
    return sum(p.numel() for layer in layers for p in layer.parameters())


def test_two_3x3_filters_on_6x6x3_give_4x4x2():
    (call,) = calls_of(nn.Conv2d(3, 2, 3), image_shape=(3, 6, 6))
    assert call.output_shape == (2, 4, 4)
    assert how(call) == "(6 + 2*0 - 3)/1 + 1 = 4"


@pytest.mark.parametrize("size", [5, 39, 1000])
def test_ten_3x3x3_filters_have_280_parameters_whatever_the_image(size):
    with torch.device("meta"):
        table = layer_table(nn.Sequential(nn.Conv2d(3, 10, 3)), (3, size, size))
    assert table.splitlines()[-1].split()[:2] == ["total", "280"]


def test_the_worked_example_of_39x39x3():
    classes = 7
    calls = calls_of(
        nn.Conv2d(3, 10, 3),
        nn.Conv2d(10, 20, 5, stride=2),
        nn.Conv2d(20, 40, 5, stride=2),
        nn.Flatten(),
        nn.Linear(1960, classes),
        image_shape=(3, 39, 39),
    )
    expected = [(10, 37, 37), (20, 17, 17), (40, 7, 7), (1960,), (classes,)]
    assert [call.output_shape for call in calls] == expected
    assert how(calls[1]) == "(37 + 2*0 - 5)/2 + 1 = 17"


def test_stride_and_padding_5x5x3_to_3x3x2():
    (call,) = calls_of(nn.Conv2d(3, 2, 3, stride=2, padding=1), image_shape=(3, 5, 5))
    assert call.output_shape == (2, 3, 3)
    assert how(call) == "(5 + 2*1 - 3)/2 + 1 = 3"


def test_sixteen_filters_with_same_padding_keep_the_size():
    layer = nn.Conv2d(1, 16, 3, stride=1, padding="same")
    (call,) = calls_of(layer, image_shape=(1, 28, 28))
    assert call.output_shape == (16, 28, 28) and parameters(layer) == 16 * 9 + 16
    assert how(call) == "(28 + 2*1 - 3)/1 + 1 = 28"


def test_two_3x3_layers_cost_18_multiplications_a_pixel_and_one_5x5_costs_25():
    def a_pixel(*layers):
        calls = calls_of(*layers, image_shape=(1, 12, 12))
        assert calls[-1].output_shape == (1, 12, 12)
        return sum(map(macs, calls)) / 144

    small = [nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(2)]
    large = nn.Conv2d(1, 1, 5, padding=2, bias=False)
    assert (a_pixel(*small), a_pixel(large)) == (18, 25)
    assert (parameters(*small), parameters(large)) == (18, 25)


LAYERS = {
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (4, 21), "(21 + 2*1 - 3)/2 + 1 = 11"),
    "conv2d grouped": (nn.Conv2d(4, 6, 3, groups=2), (4, 9, 9), "(9 + 2*0 - 3)/1 + 1 = 7"),
    "conv2d dilated": (nn.Conv2d(4, 6, 3, dilation=2), (4, 9, 9), "(9 + 2*0 - 5)/1 + 1 = 5"),
    "conv2d even, same": (
        nn.Conv2d(4, 6, 4, padding="same"),
        (4, 9, 9),
        "(9 + 1 + 2 - 4)/1 + 1 = 9",
    ),
    "conv2d two sides": (
        nn.Conv2d(4, 6, (3, 5), stride=(1, 2)),
        (4, 9, 9),
        "(9 + 2*0 - 3)/1 + 1 = 7; (9 + 2*0 - 5)/2 + 1 = 3",
    ),
    "conv3d": (nn.Conv3d(2, 3, 3, padding=1), (2, 5, 5, 5), "(5 + 2*1 - 3)/1 + 1 = 5"),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3, stride=2), (4, 5), "(5 - 1)*2 - 2*0 + 3 = 11"),
    "transposed 2d grouped": (
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        (4, 5, 5),
        "(5 - 1)*2 - 2*1 + 3 + 1 = 10",
    ),
    "transposed 3d": (
        nn.ConvTranspose3d(2, 3, 2, stride=2),
        (2, 3, 3, 3),
        "(3 - 1)*2 - 2*0 + 2 = 6",
    ),
    "linear": (nn.Linear(7, 5), (7,), ""),
    "max pool, floor": (nn.MaxPool2d(2), (3, 5, 5), "(5 + 2*0 - 2)/2 + 1 = 2.5, down to 2"),
    "max pool, ceiling": (
        nn.MaxPool2d(2, ceil_mode=True),
        (3, 5, 5),
        "(5 + 2*0 - 2)/2 + 1 = 2.5, up to 3",
    ),
    "average pool 1d": (nn.AvgPool1d(2), (3, 6), "(6 + 2*0 - 2)/2 + 1 = 3"),
    "average pool 3d": (nn.AvgPool3d(3, 1, 1), (3, 4, 4, 4), "(4 + 2*1 - 3)/1 + 1 = 4"),
    "gaussian pool": (GaussianPool2d(3, 4, padding=1), (3, 6, 6), "(6 + 2*1 - 4)/2 + 1 = 3"),
    "learned pool": (LearnedPool2d(3), (3, 6, 6), "(6 + 2*0 - 2)/2 + 1 = 3"),
}


def counted_by_torch(model, image_shape):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *image_shape))
    return counter.get_total_flops() / 2  # torch counts a multiplication and an addition


@pytest.mark.parametrize("name", LAYERS)
def test_each_kind_of_layer_by_its_formula_and_by_torchs_count(name):
    layer, image_shape, arithmetic = LAYERS[name]
    (call,) = calls_of(layer, image_shape=image_shape)
    assert how(call) == arithmetic
    if arithmetic:
        assert call.output_shape[1] == int(arithmetic.split(";")[0].split()[-1])
    assert macs(call) == counted_by_torch(layer, image_shape)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 40, 36)])
@pytest.mark.parametrize("name", MODELS)
def test_the_total_of_every_network_is_torchs(name, shape):
    model = build_model(name, shape, 10)
    total = layer_table(model, shape).splitlines()[-1].split()
    assert total[0] == "total"
    assert int(total[1].replace(",", "")) == parameters(model)
    assert int(total[2].replace(",", "")) == counted_by_torch(model, shape)


def test_the_table_and_the_summary_of_lenet():
    model = build_model("lenet", (1, 28, 28), 10)
    rows = [line.split() for line in layer_table(model, (1, 28, 28)).splitlines()]
    assert rows[2][:9] == ["features.0", "Conv2d", "3", "1", "0", "1", "25x26x26", "225", "152,100"]
    assert rows[-1] == ["total", "1,425,139", "2,925,702"]
    assert summary(model, (1, 28, 28)) == (
        "7 layers with weights, 1,425,139 parameters, 2.9 M multiply-accumulates an image"
    )


def test_shared_layers_are_counted_once_and_idle_ones_are_shown():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.idle = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.shared(self.shared(x))

    lines = layer_table(Odd(), (4,)).splitlines()
    assert "20" in lines[2] and "shared" in lines[3]
    assert "in training only" in lines[4] and lines[4].endswith("10")
    assert lines[5].split() == ["total", "30", "32"]


def test_tracing_leaves_the_network_as_it_was():
    model = build_model("lenet", (1, 28, 28), 10)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(LayerError, match=r"features\.4"):
        trace(model, (1, 5, 5))
    trace(model, (1, 28, 28))
    assert model.training and not any(layer._forward_hooks for layer in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
