"""New pictures: which are called unlike the training images, and how fast predictions are.

python -m benchmarks.predict told --ckpt RUN --photos DIR DIR   # false alarms, AUROC of each folder
python -m benchmarks.predict speed --ckpt RUN --photos DIR      # against ImageFolder and DataLoader

RUN is one on MNIST. Scores are the sum that `unlike` goes by, beside either of its parts alone and
what is often taken instead, the energy (W. Liu et al., Energy-based Out-of-Distribution Detection,
2020) and the largest probability. Letters are rendered from the fonts of matplotlib. Speed is that
of 10,000 files of 28x28 pixels, and of 12-megapixel JPEG files of photographs put side by side,
from files to probabilities, with the same network; ratios are of one run, of medians.
"""

import statistics
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from string import ascii_uppercase
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Grayscale, Normalize, Resize, ToTensor

import nanocnn
from benchmarks.decoding import make_pictures, photographs
from benchmarks.measure import report
from nanocnn.deploy.classifier import Classifier
from nanocnn.evaluation.unlike import Traits, brightness_of, projected, score
from nanocnn.images.finding import Finder
from nanocnn.images.new_pictures import Given, Picture, Unreadable, read_in_batches
from nanocnn.images.pictures import cores
from nanocnn.images.splits import load_split

REPEATS = 3
NETWORK_BATCH = 64


def scores_of(
    classifier: Classifier, pictures: Iterable[Picture | Unreadable]
) -> dict[str, np.ndarray]:
    """By name, how unlike the training images each is; the pictures are taken as they are."""
    assert classifier.judgement
    gaussians = classifier.judgement.gaussians
    found: dict[str, list[torch.Tensor]] = {}
    for batch in read_in_batches(pictures, classifier.form, NETWORK_BATCH):
        images = torch.from_numpy(np.stack([e.pixels for e in batch if isinstance(e, Given)]))
        logits, features, view = classifier.compute(images)
        assert features is not None
        parts = Traits(projected(features), view, brightness_of(images.float())).parts()
        named = {
            "both": score(gaussians, parts),
            "features": score(gaussians[:1], parts[:1]),
            "view": score(gaussians[1:], parts[1:]),
            "energy": -logits.logsumexp(1),
            "largest probability": -logits.softmax(1).amax(1),
        }
        for name, values in named.items():
            found.setdefault(name, []).append(values.double())
    return {name: torch.cat(values).numpy() for name, values in found.items()}


def letters() -> list[Picture]:
    """White on black, of 20 pixels in 28, as MNIST has its digits."""
    import matplotlib

    fonts = Path(matplotlib.get_data_path(), "fonts/ttf").glob("DejaVu*.ttf")
    found: list[Picture] = []
    for font in sorted(fonts):
        for letter in ascii_uppercase:
            picture = Image.new("L", (28, 28))
            ink = ImageFont.truetype(str(font), 20)
            ImageDraw.Draw(picture).text((14, 14), letter, font=ink, fill=255, anchor="mm")
            found.append(picture)
    return found


def told(classifier: Classifier, folders: list[Path]) -> None:
    data, info = classifier.config.data, classifier.info
    test = load_split("test", data, classifier.config.seed, info).images
    assert isinstance(test, torch.Tensor)
    plain = scores_of(classifier, test[:, 0].numpy())
    sets: dict[str, Iterable[Picture | Unreadable]] = {
        str(folder.name): Finder([str(folder)]) for folder in folders
    }
    sets["letters"] = letters()
    rows = []
    for name, pictures in sets.items():
        others = scores_of(classifier, pictures)
        row: dict[str, object] = {"pictures": name, "n": len(others["both"])}
        for kind, values in others.items():
            truth = np.repeat([0, 1], [len(plain[kind]), len(values)])
            row[kind] = roc_auc_score(truth, np.concatenate([plain[kind], values]))
        assert classifier.judgement
        row["told"] = float((others["both"] > classifier.judgement.threshold).mean())
        rows.append(row)
    found = classifier.predict(test[:, 0, :, :, None].numpy())
    count = len(found)
    half = 1.96 * (0.01 * 0.99 / count) ** 0.5
    report(
        "predict_told",
        rows,
        false_alarms=sum("features" in (each.unlike or []) for each in found) / count,
        of_one_percent_by_chance=f"{0.01 - half:.4f} to {0.01 + half:.4f}",
        other_contrast=sum("contrast" in (each.unlike or []) for each in found) / count,
        inverted=sum(each.inverted for each in found),
    )


def plain_loop(classifier: Classifier, root: Path) -> int:
    """What people write: ImageFolder, DataLoader, softmax."""
    height, width = classifier.info.image_shape[1:]
    steps = [
        Grayscale(),
        Resize((height, width)),
        ToTensor(),
        Normalize(classifier.info.mean, classifier.info.std),
    ]
    loader = DataLoader(ImageFolder(str(root), Compose(steps)), 64, num_workers=cores())
    count = 0
    with torch.inference_mode():
        for images, _ in loader:
            count += len(classifier._model(images).softmax(1).argmax(1))
            if classifier._tap:
                classifier._tap.take()
    return count


def predicted(classifier: Classifier, root: Path) -> int:
    return sum(1 for _ in classifier.stream(Finder([str(root)])))


def speed(classifier: Classifier, folder: Path) -> None:
    rows = []
    with TemporaryDirectory() as temporary:
        small, large = Path(temporary, "small"), Path(temporary, "large")
        data, info = classifier.config.data, classifier.info
        test = load_split("test", data, classifier.config.seed, info)
        assert isinstance(test.images, torch.Tensor)
        for place, (image, label) in enumerate(
            zip(test.images[:, 0].numpy(), test.labels.tolist(), strict=True)
        ):
            path = small / str(label) / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        make_pictures(large, photographs(folder), 40, (4000, 3000), 8)
        ways: list[Callable[[Classifier, Path], int]] = [plain_loop, predicted]
        for name, root in (("28x28 PNG", small), ("12-megapixel JPEG", large)):
            root = next(path for path in chain([root / "train"], [root]) if path.is_dir())
            seconds: dict[str, list[float]] = {way.__name__: [] for way in ways}
            count = 0
            for _ in range(REPEATS):  # in turn, since other work comes and goes
                for way in ways:
                    start = time.perf_counter()
                    count = way(classifier, root)
                    seconds[way.__name__].append(time.perf_counter() - start)
            plain, ours = (statistics.median(seconds[way.__name__]) for way in ways)
            rows.append(
                {
                    "files": name,
                    "n": count,
                    "plain loop, images/s": count / plain,
                    "predict, images/s": count / ours,
                    "times": plain / ours,
                }
            )
    report("predict_speed", rows, cores=cores())


def main() -> None:
    parser = ArgumentParser("python -m benchmarks.predict")
    parser.add_argument("what", choices=["told", "speed"])
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    args = parser.parse_args()
    classifier = nanocnn.load(args.ckpt, device="cpu")
    if args.what == "told":
        told(classifier, args.photos)
    else:
        speed(classifier, args.photos[0])


if __name__ == "__main__":
    main()
