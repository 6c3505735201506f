"""What is where in a large picture: a network slid over it, and the places that it is surest of."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nanocnn.images.decode import Form, fitted, load, reason
from nanocnn.images.new_pictures import Unreadable, form_for
from nanocnn.images.splits import DataInfo
from nanocnn.networks.sliding import Sliding, sliding_network
from nanocnn.run.restore import Restored, temperature_of
from nanocnn.system.output import one_line

MOST_SCORES = 64_000_000  # places times classes, of 4 bytes
MOST_WRITTEN = 1_000_000  # of them, that a JSON file holds
MOST_PEAKS = 100
SIDES = 480, 1600  # pixels of the longer side of a drawn picture, at least and at most


class Peak(NamedTuple):
    """A window whose score is higher than that of all others near it."""

    label: str
    probability: float  # calibrated, as if the window were a picture of its own
    score: float  # the logit
    x: float  # of its middle, in pixels
    y: float
    box: tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Mapper:
    """A trained network, made to slide."""

    info: DataInfo
    form: Form  # what training made a picture into
    sliding: Sliding
    temperature: float

    def pixels(self, path: Path, invert: bool = False) -> Tensor:
        """(C, H, W) uint8 of a picture at its own size, in the colours of training.

        Raises what `reason` puts into words, and ValueError for a picture smaller than a window or
        too large for its scores.
        """
        picture = load(path, self.form._replace(shrink=False))
        width, height = picture.size
        rows, columns = self.sliding.window
        if height < rows or width < columns:
            raise ValueError(
                f"{height}x{width} pixels, less than the {rows}x{columns} of the network"
            )
        down, right = self.sliding.stride
        places = ((height - rows) // down + 1) * ((width - columns) // right + 1)
        if places * len(self.info.classes) > MOST_SCORES:
            raise ValueError(
                f"{places:,} places of {len(self.info.classes):,} classes, more than "
                f"{MOST_SCORES:,} scores; make the picture smaller"
            )
        whole = Form((self.form.shape[0], height, width), background=self.form.background)
        pixels = torch.from_numpy(fitted(picture, whole).copy())
        return 255 - pixels if invert else pixels

    def scores(self, pixels: Tensor) -> Tensor:
        """(classes, rows, columns) float32: the logits of each place."""
        mean, std = self.info.moments()
        return self.sliding.scores(pixels, lambda tile: (tile - mean) / std)

    def peaks(self, scores: Tensor, most: int = MOST_PEAKS) -> list[Peak]:
        """The places of highest scores, the highest first; none is within a window of another."""
        best, classes = scores.max(0)
        left = best.clone()
        reach = [
            math.ceil(side / step) - 1
            for side, step in zip(self.sliding.window, self.sliding.stride, strict=True)
        ]
        found: list[Peak] = []
        while len(found) < most and torch.isfinite(left).any():
            row, column = divmod(int(left.argmax()), left.shape[1])
            found.append(self.peak(scores[:, row, column], int(classes[row, column]), row, column))
            top, first = max(0, row - reach[0]), max(0, column - reach[1])
            left[top : row + reach[0] + 1, first : column + reach[1] + 1] = -torch.inf
        return found

    def peak(self, logits: Tensor, index: int, row: int, column: int) -> Peak:
        probability = (logits.double() / self.temperature).softmax(0)[index]
        (down, right), (height, width) = self.sliding.stride, self.sliding.window
        top, left = row * down, column * right
        return Peak(
            self.info.classes[index],
            float(probability),
            float(logits[index]),
            left + width / 2,
            top + height / 2,
            (left, top, left + width, top + height),
        )


def mapper_of(restored: Restored) -> Mapper:
    """Raises UserError for a network that cannot slide."""
    info = restored.info
    sliding = sliding_network(restored.model.cpu().float(), info.image_shape)
    temperature = temperature_of(restored.checkpoint) or 1.0
    return Mapper(info, form_for(restored.config.data, info), sliding, temperature)


class Mapped(NamedTuple):
    """What was made of a picture; `reason` says why nothing could be."""

    file: str
    peaks: list[Peak]
    picture: Image.Image | None
    facts: str  # JSON
    reason: str = ""


def mapped(mapper: Mapper, files: Iterable[str | Unreadable], invert: bool) -> Iterator[Mapped]:
    """The map of each picture, one after the other."""
    for file in files:
        if isinstance(file, Unreadable):
            yield Mapped(file.file or "", [], None, "", file.reason)
            continue
        try:
            pixels = mapper.pixels(Path(file), invert)
        except MemoryError:  # which says nothing of the picture
            raise
        except Exception as error:  # noqa: BLE001  whatever Pillow stumbles on
            yield Mapped(file, [], None, "", reason(error))
            continue
        scores = mapper.scores(pixels)
        peaks = mapper.peaks(scores)
        facts = as_json(mapper, file, pixels, scores, peaks)
        yield Mapped(file, peaks, drawn(mapper.sliding, pixels, scores, peaks), facts)


def as_json(mapper: Mapper, file: str, pixels: Tensor, scores: Tensor, peaks: list[Peak]) -> str:
    values = None
    if scores.numel() <= MOST_WRITTEN:
        values = np.round(scores.double().numpy(), 4).tolist()
    facts = {
        "file": file,
        "size": list(pixels.shape[1:]),
        "window": list(mapper.sliding.window),
        "stride": list(mapper.sliding.stride),
        "exact": mapper.sliding.exact,
        "classes": mapper.info.classes,
        "peaks": [each._asdict() for each in peaks],
        "shape": list(scores.shape),
        "scores": values,
    }
    return json.dumps(facts) + "\n"


def drawn(sliding: Sliding, pixels: Tensor, scores: Tensor, peaks: list[Peak]) -> Image.Image:
    """The picture under a red veil, thickest where the highest score of a place is high, and in
    frames the peaks that stand out.
    """
    values = pixels.numpy()
    bare = Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0))
    longest = max(bare.size)
    scale = min(math.ceil(SIDES[0] / longest), SIDES[1] / longest)
    size = (max(1, round(bare.width * scale)), max(1, round(bare.height * scale)))
    nearest = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BILINEAR
    picture = bare.convert("RGB").resize(size, nearest)
    best = scores.max(0).values
    low, high = float(best.min()), float(best.max())
    shares = ((best - low) / max(high - low, 1e-9)) ** 2
    veil = Image.fromarray((150 * shares).byte().numpy())
    whole = Image.new("L", size)
    (height, width), (down, right), (rows, columns) = sliding.window, sliding.stride, best.shape
    first = (width - right) / 2, (height - down) / 2  # a place covers a stride around its middle
    extent = (*first, first[0] + columns * right, first[1] + rows * down)
    left, top, right, bottom = (round(side * scale) for side in extent)
    spread = (max(1, right - left), max(1, bottom - top))
    whole.paste(veil.resize(spread, Image.Resampling.BILINEAR), (left, top))
    picture = Image.composite(Image.new("RGB", size, (230, 0, 0)), picture, whole)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=14)
    for peak in peaks:
        if (peak.score - low) < 0.5 * (high - low) or peak.probability < 0.5:
            continue
        box = [round(side * scale) for side in peak.box]
        draw.rectangle(box, outline=(255, 196, 0), width=2)
        name = one_line(peak.label)[:20].encode("latin-1", "replace").decode("latin-1")
        text = f"{name} {peak.probability:.0%}"
        place = (box[0] + 3, max(0, box[1] - 18))
        draw.rectangle(draw.textbbox(place, text, font=font), fill=(0, 0, 0))
        draw.text(place, text, fill=(255, 196, 0), font=font)
    return picture
