"""Picture files of every kind, against their pixels worked out by hand; hashes and histograms."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from nanocnn.images.content import hashes, histogram, mean_and_std
from nanocnn.images.decode import Form, Header, decode
from nanocnn.images.pictures import Pictures, look_at

GENERATOR = np.random.default_rng(0)
COLOUR = GENERATOR.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = GENERATOR.integers(0, 256, (20, 30), dtype=np.uint8)


def exif(orientation):
    tags = Image.Exif()
    tags[274] = orientation
    return tags


def decoded(path, channels=3, size=(20, 30), resize=None):
    """(H, W) or (H, W, 3)."""
    return decode(path, Form((channels, *size), resize)).transpose(1, 2, 0).squeeze()


def written(tmp_path, pixels, name="picture.png", **options):
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.ppm", "a.tif", "a.webp"])
def test_plain_pictures_come_as_they_are(tmp_path, name):
    path = written(tmp_path, COLOUR, name, **({"lossless": True} if "webp" in name else {}))
    assert np.array_equal(decoded(path), COLOUR)
    assert look_at(tmp_path, [name]) == {name: Header(20, 30, False)}


def test_the_content_counts_not_the_name(tmp_path):
    assert np.array_equal(decoded(written(tmp_path, COLOUR, "a.jpg", format="PNG")), COLOUR)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bits_are_scaled_not_clipped(tmp_path, name):
    levels = np.arange(600, dtype=np.uint32).reshape(20, 30) * 109  # up to 65,291
    path = written(tmp_path, levels.astype(np.uint16), name)
    assert np.array_equal(decoded(path, 1), np.round(levels / 257).astype(np.uint8))
    assert np.array_equal(decoded(path)[:, :, 2], decoded(path, 1))
    assert look_at(tmp_path, [name])[name].grey


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bits_have_no_range_to_scale_from(tmp_path, mode):
    path = written(tmp_path, Image.fromarray(GREY).convert(mode), "a.tif")
    _, reasons = Pictures(tmp_path, ["a.tif"], Form((1, 20, 30)))[np.array([0])]
    assert "32 bits" in reasons[0] and path.exists()


def test_what_is_transparent_lies_over_black(tmp_path):
    opacity = GREY[:, :, None]
    over_black = np.round(COLOUR * (opacity / 255.0))
    both = decoded(written(tmp_path, np.concatenate([COLOUR, opacity], axis=2))).astype(float)
    assert np.abs(both - over_black).max() <= 1
    plane = Image.merge("LA", [Image.fromarray(COLOUR[:, :, 0].copy()), Image.fromarray(GREY)])
    grey = decoded(written(tmp_path, plane), 1).astype(float)
    assert np.abs(grey - over_black[:, :, 0]).max() <= 1
    level = int(GREY[0, 0])
    named = decoded(written(tmp_path, GREY, transparency=level), 1)
    assert np.array_equal(named, np.where(level == GREY, 0, GREY))


def test_palettes_one_bit_and_cmyk(tmp_path):
    few = COLOUR // 64 * 64
    assert np.array_equal(decoded(written(tmp_path, Image.fromarray(few).quantize(256))), few)
    assert not look_at(tmp_path, ["picture.png"])["picture.png"].grey
    levels = Image.fromarray(GREY // 32 * 32)
    path = written(tmp_path, levels.convert("RGB").quantize(8))
    assert np.array_equal(decoded(path, 1), GREY // 32 * 32)
    assert look_at(tmp_path, ["picture.png"])["picture.png"].grey
    assert np.array_equal(decoded(written(tmp_path, GREY > 99), 1), (GREY > 99) * 255)
    cyan = written(tmp_path, Image.new("CMYK", (30, 20), (255, 0, 0, 0)), "a.jpg", quality=100)
    assert np.abs(decoded(cyan).astype(int) - [0, 255, 255]).max() <= 2
    assert decoded(cyan, 1).shape == (20, 30)


def test_of_an_animation_the_first_frame_counts(tmp_path):
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    path = written(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert np.array_equal(decoded(path, 1), GREY)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_exif_orientation_is_honoured(tmp_path, orientation, name):
    options = {"quality": 100, "subsampling": 0} if name == "a.jpg" else {}
    path = written(tmp_path, COLOUR, name, exif=exif(orientation), **options)
    turned = Image.fromarray(
        np.asarray(Image.open(written(tmp_path, COLOUR, f"b{name}", **options)))
    )
    turned.getexif()[274] = orientation
    upright = np.asarray(ImageOps.exif_transpose(turned))
    assert upright.shape[:2] == ((30, 20) if orientation > 4 else (20, 30))
    assert look_at(tmp_path, [name])[name] == Header(*upright.shape[:2], False)
    assert np.array_equal(decoded(path, size=upright.shape[:2]), upright)


def test_the_three_ways_to_a_square(tmp_path):
    half = np.zeros((20, 40), np.uint8)
    half[:, 20:] = 200  # left half black, right half light
    path = written(tmp_path, half)
    stretched, cropped, padded = (
        decoded(path, 1, (20, 20), resize) for resize in ("stretch", "crop", "pad")
    )
    assert np.array_equal(stretched, np.asarray(Image.fromarray(half).resize((20, 20), 2)))
    assert np.array_equal(cropped, half[:, 10:30])
    assert not padded[:5].any() and not padded[15:].any()
    assert np.array_equal(padded[5:15], np.asarray(Image.fromarray(half).resize((20, 10), 2)))
    line = written(tmp_path, np.full((1, 500), 255, np.uint8))
    assert decoded(line, 1, (20, 20), "pad").sum(axis=1).nonzero()[0].tolist() == [9]


def test_threads_keep_order_and_leave_out_what_they_cannot_read(tmp_path):
    names = [f"{number}.png" for number in range(40)]
    for number, name in enumerate(names):
        written(tmp_path, np.full((4, 5), number, np.uint8), name)
    for number in (0, 17, 39):
        (tmp_path / names[number]).write_bytes(b"")
    kept, measured = (
        Pictures(tmp_path, names, Form((1, 4, 5))).read_all(keep) for keep in (True, False)
    )
    readable = [number for number in range(40) if number not in (0, 17, 39)]
    assert kept.reasons == measured.reasons == {0: "empty", 17: "empty", 39: "empty"}
    assert kept.images.shape == (37, 1, 4, 5) and kept.images[:, 0, 3, 4].tolist() == readable
    assert measured.images is None and measured.hashes == kept.hashes == hashes(kept.images)
    assert np.array_equal(measured.histogram, histogram(kept.images))
    assert np.array_equal(measured.histogram, kept.histogram)


def test_mean_and_std_are_those_of_torch():
    images = torch.randint(0, 256, (7, 3, 5, 6), dtype=torch.uint8)
    images[:, 2] = 51
    mean, std = mean_and_std(histogram(images.numpy()))
    scaled = images.double() / 255
    torch.testing.assert_close(torch.tensor(mean).double(), scaled.mean((0, 2, 3)))
    expected = scaled.std((0, 2, 3), correction=0)
    expected[2] = 1  # one colour all over
    torch.testing.assert_close(torch.tensor(std).double(), expected)


def test_a_hash_tells_pixels_apart():
    images = torch.zeros(4, 1, 3, 3, dtype=torch.uint8)
    images[1, 0, 0, 0] = images[2, 0, 2, 2] = images[3, 0, 2, 2] = 1
    digests = hashes(images.numpy())
    assert digests[2] == digests[3] and len(set(digests)) == 3
