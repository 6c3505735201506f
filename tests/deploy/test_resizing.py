"""Pictures are resized within a file as Pillow resizes them, to the last bit."""

import numpy as np
import pytest
import torch
from PIL import Image

from nanocnn.deploy.resizing import Resizing
from nanocnn.images.decode import Form, fitted

SIZES = [(1, 1), (1, 40), (40, 1), (16, 24), (28, 28), (33, 47), (300, 20), (97, 61)]


def pixels(height, width, channels):
    """Noise with steps: what is rounded wrongly shows."""
    generator = np.random.default_rng(height * 1000 + width)
    noise = generator.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return np.where(noise % 3 == 0, noise // 128 * 255, noise).astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("fraction, background", [(1.0, "black"), (0.875, "white")])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 70, 40)])
def test_pixels_are_pillows(shape, resize, interpolation, fraction, background):
    form = Form(shape, resize, background, interpolation=interpolation, crop_fraction=fraction)
    layer = Resizing(form)
    for height, width in SIZES:
        picture = pixels(height, width, shape[0])
        wanted = fitted(Image.fromarray(picture.squeeze(2) if shape[0] == 1 else picture), form)
        images = torch.from_numpy(picture).permute(2, 0, 1)[None].expand(2, -1, -1, -1)
        found = layer(images)
        assert np.array_equal(found[1].numpy(), wanted), (height, width)


def test_pictures_of_that_size_are_taken_as_they_are():
    picture = torch.from_numpy(pixels(16, 24, 3)).permute(2, 0, 1)[None]
    for resize in ("stretch", "crop", "pad"):
        assert torch.equal(Resizing(Form((3, 16, 24), resize))(picture), picture.float())
