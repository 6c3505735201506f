"""What a network does, found by images: what its filters respond to, and where it looks."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from nanocnn.evaluation.calibration import chances
from nanocnn.evaluation.drawing import fitted, mosaic, picture_of, signed
from nanocnn.evaluation.gradcam import Target, gradcam, target_of
from nanocnn.evaluation.maps import Step, convolutions, steps
from nanocnn.evaluation.occlusion import GRID, occlusion
from nanocnn.evaluation.patches import Strongest, patch, strongest
from nanocnn.evaluation.projection import NotPlainError, layers_up_to, project
from nanocnn.evaluation.receptive import Fields
from nanocnn.images.batches import Batches
from nanocnn.networks.table import Call, Shape, macs, trace
from nanocnn.system.errors import UserError, did_you_mean

# Large networks must stay quick: what is looked at is bounded, and the page says by what.
MOST_LAYERS, MOST_FILTERS, ALL_FILTERS = 6, 50, 150  # the last two of a layer and of all
MOST_IMAGES, FEWEST_IMAGES = 5000, 100  # searched for patches
SHOWN, FEWEST_SHOWN = 8, 2  # images of which is said where the network looks
MACS = 5e11  # multiply-accumulates that each of both may take: some ten seconds of a small CPU
BATCH = 64  # images
TILE = 64  # pixels of a patch at most


class Subject(NamedTuple):
    """A trained network on a device, and images there."""

    model: nn.Module
    judged: nn.Module  # `model`, or with data.average_flips its mean over mirror images
    folded: nn.Module  # the same function: its convolutions do the batch normalisation after them
    calls: list[Call]  # of `folded`
    train: Batches
    val: Batches  # images that it was not trained on
    temperature: float


class Filter(NamedTuple):
    number: int
    response: float  # the largest
    patches: Image
    projection: Image | None


class Responses(NamedTuple):
    """What the filters of a convolution respond to."""

    name: str
    shape: Shape  # of its maps (C, h, w)
    field: tuple[int, int]  # height and width of the receptive field, in pixels
    filters: list[Filter]
    refusal: str  # why there is no projection; empty where there is one
    is_rectified: bool  # what is not above zero goes no further


class Sight(NamedTuple):
    """Where the network looks on some images."""

    images: Tensor  # (N, C, H, W) uint8
    places: list[int]  # of the images in their split
    labels: list[int]
    likely: np.ndarray  # (N, classes), the probabilities; the map is of the likeliest class
    occlusion: Tensor  # (N, rows, columns)
    gradcam: Tensor | None  # (N, h, w)
    target: Target | None  # whose maps they are


def choose(calls: Sequence[Call], wanted: Sequence[str] | None) -> list[Call]:
    """The convolutions to look at: the `wanted` ones, or at most MOST_LAYERS of all.

    Raises UserError for a name that is none of them.
    """
    known = {call.name: call for call in convolutions(list(calls))}
    if wanted is None:
        kept = np.linspace(0, len(known) - 1, min(MOST_LAYERS, len(known))).round().astype(int)
        return [list(known.values())[place] for place in kept]
    for name in wanted:
        if not known:
            raise UserError(f"--layer {name}: this network has no convolution")
        if name not in known:
            raise UserError(f"--layer {name}: no convolution{did_you_mean(name, known)}")
    return [known[name] for name in dict.fromkeys(wanted)]


def images_within(calls: Sequence[Call], count: int) -> tuple[int, int]:
    """How many of `count` images to search for patches, and of how many to show where the network
    looks.
    """
    cost = max(1, sum(macs(call) for call in calls))
    searched = max(FEWEST_IMAGES, int(MACS / cost))
    shown = max(FEWEST_SHOWN, int(MACS / cost / (GRID * GRID + 1)))
    return min(count, MOST_IMAGES, searched), min(SHOWN, shown)


def evenly(count: int, wanted: int) -> Tensor:
    """`wanted` of the numbers below `count`, at even distances."""
    return torch.linspace(0, count - 1, min(count, wanted), dtype=torch.float64).round().long()


def first_filters(calls: Sequence[Call], image_shape: Shape) -> tuple[str, Tensor] | None:
    """The name and the weights (F, C, h, w) of the first layer that weighs pixels.

    A linear layer that takes the whole image has weights for each pixel, too.
    """
    call = next((each for each in calls if macs(each)), None)
    layer = call and call.layer
    if call and isinstance(layer, nn.Conv2d) and call.input_shape == image_shape:
        return call.name, layer.weight.detach().cpu()
    if call and isinstance(layer, nn.Linear) and layer.in_features == math.prod(image_shape):
        return call.name, layer.weight.detach().cpu().view(-1, *image_shape)
    return None


def responses(
    subject: Subject, chosen: Mapping[str, Fields], searched: Tensor, with_all: bool = False
) -> list[Responses]:
    """Of each of the layers `chosen`, with its receptive fields, some filters or `with_all`.

    `searched` are the numbers of the training images among which patches are sought.
    """
    train, chunks = subject.train, searched.to(subject.train.labels.device).split(BATCH)
    batches = (
        (numbers, train.normalise(images))
        for numbers, (images, _) in zip(chunks, train.read(chunks), strict=True)
    )
    layers = {name: subject.folded.get_submodule(name) for name in chosen}
    tops = strongest(subject.folded, layers, batches)
    most = max((len(top.values) for top in tops.values()), default=0)
    if not with_all:
        most = min(MOST_FILTERS, ALL_FILTERS // max(1, len(chosen)))
    return [of_layer(subject, name, fields, tops[name], most) for name, fields in chosen.items()]


def of_layer(subject: Subject, name: str, fields: Fields, top: Strongest, most: int) -> Responses:
    shape = next(call.output_shape for call in subject.calls if call.name == name)
    numbers = evenly(len(top.values), most)
    refusal, layers = "", None
    try:
        layers = layers_up_to(subject.folded, name, tuple(subject.train.images.shape[1:]))
    except NotPlainError as error:
        refusal = str(error)
    pairs = list(tiles(subject, fields, top, numbers, layers))
    count, filters = top.values.shape[1], []
    for place, number in enumerate(numbers.tolist()):
        some = pairs[place * count : (place + 1) * count]
        seen, projected = (
            [each for each in some_of if each] for some_of in zip(*some, strict=True)
        )
        columns = int(np.ceil(np.sqrt(count)))
        filters.append(
            Filter(
                number,
                float(top.values[number].max()),
                mosaic(seen, columns),
                mosaic(projected, columns) if projected else None,
            )
        )
    return Responses(name, shape, fields.size, filters, refusal, is_rectified(subject.calls, name))


def tiles(
    subject: Subject,
    fields: Fields,
    top: Strongest,
    numbers: Tensor,
    layers: list[nn.Module] | None,
) -> Iterator[tuple[Image, Image | None]]:
    """For each of the filters `numbers` its patches and, by `layers`, what of them was responded
    to.
    """
    train = subject.train
    device = train.labels.device
    images_of, units = top.images[numbers].flatten(), top.units[numbers].flatten()
    filters = numbers[:, None].expand(-1, top.images.shape[1]).flatten()
    chunks = torch.arange(len(units)).split(BATCH)
    wanted = [images_of[chunk].to(device) for chunk in chunks]
    for chunk, (images, _) in zip(chunks, train.read(wanted), strict=True):
        projected: Tensor | None = None
        if layers:
            which = filters[chunk].to(device), units[chunk].to(device)
            projected = project(layers, train.normalise(images), *which).cpu()
        for place, unit in enumerate(units[chunk].tolist()):
            seen = fitted(picture_of(patch(images[place].cpu(), unit, fields).numpy()), TILE)
            if projected is None:
                yield seen, None
            else:
                shown = picture_of(signed(patch(projected[place], unit, fields)))
                yield seen, fitted(shown, TILE)


def is_rectified(calls: Sequence[Call], name: str) -> bool:
    """Whether the layer that is called after `name`, but for those that do nothing, is a ReLU."""
    after = [call.layer for call in calls]
    after = after[[call.name for call in calls].index(name) + 1 :]
    following = next((layer for layer in after if not isinstance(layer, nn.Identity)), None)
    return isinstance(following, nn.ReLU)


def spread(labels: Tensor, wanted: int) -> Tensor:
    """The numbers of `wanted` images, of as many classes as there are."""
    order = labels.sort(stable=True).indices
    return order[evenly(len(order), wanted).to(order.device)]


def sight(subject: Subject, wanted: int, with_gradcam: bool) -> Sight:
    """Where the network looks on `wanted` images that it was not trained on, for the class that it
    predicts.
    """
    val, model = subject.val, subject.model
    places = spread(val.labels, wanted)
    images, labels = next(val.read([places]))
    normalised = val.normalise(images)
    with torch.inference_mode():
        logits = subject.judged.eval()(normalised).float().cpu()
    likely = chances(logits, subject.temperature)
    predictions = torch.from_numpy(likely.argmax(1))
    target = target_of(model, tuple(images.shape[1:])) if with_gradcam else None
    cams = gradcam(model, target.name, normalised, predictions) if target else None
    return Sight(
        images.cpu(),
        places.tolist(),
        labels.tolist(),
        likely,
        occlusion(subject.judged, normalised, predictions),
        cams,
        target,
    )


def steps_of(subject: Subject, place: int) -> tuple[list[Step], int]:
    """What the layers make of the image at `place` of the validation images: see `steps`."""
    images, _ = next(subject.val.read([torch.tensor([place], device=subject.val.labels.device)]))
    return steps(subject.model, subject.val.normalise(images))


def calls_of(model: nn.Module, image_shape: Shape) -> list[Call]:
    return trace(model, image_shape)[0]
