"""An overview of images as one HTML file, which needs no script and nothing from elsewhere."""

import base64
import io
from collections.abc import Sequence
from html import escape
from itertools import groupby

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nanocnn.images.decode import load
from nanocnn.images.overview import Overview, Section, Tile
from nanocnn.images.pictures import in_threads
from nanocnn.images.stream import Stream
from nanocnn.system.output import one_line

MOST = 128  # pixels of a side as it is shown
SMALL = 48  # pixels up to which each is shown as it is
STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6675; --line: #d9dee6; --back: #fff;
  --card: #f5f7fa; --warn: #8a4b00; --accent: #2463b8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa7b8; --line: #333c49;
  --back: #14181f; --card: #1c222b; --warn: #ffc979; --accent: #7fb2f5; } }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 1080px; background: var(--back);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p, ul { margin: .4rem 0 .8rem; max-width: 46rem; } ul { padding-left: 1.2rem; }
h2 + p, figcaption { color: var(--soft); }
h1, li, p, figcaption, td, th { overflow-wrap: anywhere; }
a { color: var(--accent); } .alarm { color: var(--warn); font-weight: 600; }
.alarm::marker { content: "! "; }
.grid { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); }
.pairs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); }
figure { margin: 0; padding: .5rem; display: flex; flex-wrap: wrap; align-content: start;
  gap: .4rem; background: var(--card); border-radius: .6rem; font-size: .8rem; line-height: 1.35; }
figure div { flex: 1 1 6rem; min-width: 0; }
img { display: block; width: 100%; height: 7rem; object-fit: contain; }
img.small { image-rendering: pixelated; } figcaption { margin-top: .3rem; }
.note { flex-basis: 100%; font-weight: 600; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
td, th { padding: .3rem .8rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); }
td:first-child, th:first-child { text-align: left; }
@media print { figure, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def overview_page(
    title: str, overview: Overview, batch: Tensor, sections: Sequence[Section]
) -> str:
    """The page; `batch` are images (B, C, H, W) from 0 to 255 as training sees them."""
    wanted = sorted({i for part in sections for tile in part.tiles for i in tile.pictures})
    sources = dict(zip(wanted, embedded(overview, wanted), strict=True)) if wanted else {}
    links = "".join(
        f"<li{' class=alarm' if part.alarming else ''}>"
        f'<a href="#s{number}">{text(part.title)}</a>: {text(part.text)}</li>'
        for number, part in enumerate(sections)
    )
    shown = [picture_of(image) for image in batch.round().byte()]
    seen = "".join(f"<figure><div>{image(embed(each))}</div></figure>" for each in shown)
    body = "".join(section(number, part, sources) for number, part in enumerate(sections))
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{text(title)}</h1><ul>{links}</ul>"
        "<h2>A batch as training sees it</h2>"
        "<p>in the size that the network is given, and augmented where the config says so</p>"
        f"<div class=grid>{seen}</div>{body}</body></html>\n"
    )


def section(number: int, part: Section, sources: dict[int, str]) -> str:
    kind = "grid pairs" if any(len(tile.pictures) > 1 for tile in part.tiles) else "grid"
    tiles = "".join(
        (f"<h3>{text(heading)}</h3>" if heading else "")
        + f'<div class="{kind}">{"".join(figure(tile, sources) for tile in some)}</div>'
        for heading, some in groupby(part.tiles, lambda tile: tile.heading)
    )
    lines = "".join(f"<li>{text(line)}</li>" for line in part.lines)
    rows = "".join(
        "<tr>" + "".join(f"<{cell}>{text(value)}</{cell}>" for value in row) + "</tr>"
        for cell, row in zip(["th"] + ["td"] * len(part.rows), part.rows, strict=False)
    )
    return (
        f"<h2 id=s{number}>{text(part.title)}</h2><p>{text(part.text)}</p>"
        + (f"<ul>{lines}</ul>" if lines else "")
        + (f"<table>{rows}</table>" if rows else "")
        + tiles
    )


def figure(tile: Tile, sources: dict[int, str]) -> str:
    parts = "".join(
        f"<div>{image(sources[index])}<figcaption>{text(caption)}</figcaption></div>"
        for index, caption in zip(tile.pictures, tile.captions, strict=True)
    )
    note = f"<div class=note>{text(tile.note)}</div>" if tile.note else ""
    return f"<figure>{note}{parts}</figure>"


def text(value: str) -> str:
    return escape(one_line(value))


def image(source: str) -> str:
    small = " class=small" if source.startswith("data:image/png") else ""
    return f'<img{small} loading=lazy alt="" src="{source}">'


def embedded(overview: Overview, indices: Sequence[int]) -> list[str]:
    """The pictures with these places among all, small, as addresses that hold them."""

    def embed_some(chosen: np.ndarray) -> list[str]:
        return [embed(picture(overview, indices[place])) for place in chosen]

    return [each for part in in_threads(embed_some, len(indices), 16, "showing") for each in part]


def picture(overview: Overview, index: int) -> Image.Image:
    """As it is in its file, upright, over what lies behind transparent ones."""
    split = list(overview.splits.values())[overview.split_of[index]]
    if split.files is None:
        assert not isinstance(split.images, Stream)
        return picture_of(split.images[int(overview.place_of[index])])
    found = load(overview.root / overview.names[index])
    if found.mode == "RGBA":
        below = Image.new("RGBA", found.size, split.files.background)
        found = Image.alpha_composite(below, found)
    return found.convert("RGB")


def picture_of(pixels: Tensor) -> Image.Image:
    """Of pixels (C, H, W) uint8."""
    channels = pixels.to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(channels[:, :, 0] if channels.shape[2] == 1 else channels)


def embed(shown: Image.Image) -> str:
    """The address of a picture that holds it: small ones pixel by pixel."""
    content = io.BytesIO()
    kind = "png" if max(shown.size) <= SMALL else "jpeg"
    if kind == "jpeg":
        shown.thumbnail((MOST, MOST))
    shown.save(content, kind, quality=80)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
