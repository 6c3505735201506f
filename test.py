"""Judge a trained network, by default on the test split, which training never reads.

python test.py                                      # the newest run
python test.py --ckpt runs/mine                     # a run folder (its best.pt) or a .pt file
python test.py --ckpt runs/mine --split val --json result.json   # '-' is standard output
"""

from __future__ import annotations

import json
import sys
import time
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from errors import ArgumentParser, UserError, exit_code


def judge(
    path: Path,
    split: str,
    data_root: str | None,
    device: str | None,
    batch_size: int | None,
    fold: bool,
) -> dict[str, Any]:
    """The report on the checkpoint at `path`: all of test.json (see README).

    What is None stays as it was in training. Raises UserError where checkpoint and images do not fit.
    """
    # imported here and not above, so that --help answers at once
    from checkpoint import restore
    from content import read_hashes
    from dataset import Batches, image_hashes, load_splits, load_test
    from device import pick_computing
    from engine import evaluate
    from fused import fuse_pooling
    from layers import AverageFlips
    from loss import build_loss
    from metrics import confusion_matrix, per_class, wilson_interval
    from rewrite import fold_batch_norm, gain

    checkpoint, config, info, model = restore(path)
    data = config.data.model_copy(update={"root": data_root or config.data.root})
    where, precision, memory_format = pick_computing(config, device)
    model = model.to(where, memory_format=memory_format)  # type: ignore[call-overload]

    # only here, and only when asked, is the test split read
    if split == "test":
        splits = {"test": load_test(data, info)}
    else:
        splits = load_splits(data, config.seed, info)
    if split not in splits:
        raise UserError(
            f"--split {split}: this run carved no validation images (data.validation = 0)"
        )
    images, labels, files = splits[split]
    if images.shape[1:] != info.image_shape:
        sizes = ["x".join(map(str, shape)) for shape in (images.shape[1:], info.image_shape)]
        raise UserError(
            f"{path}: the images are {sizes[0]}, this network was trained on {sizes[1]}"
        )
    trained_on = None
    if split != "train" and (path.parent / "train_hashes.txt").exists():
        training = read_hashes(path.parent / "train_hashes.txt")
        trained_on = sum(digest in training for digest in image_hashes(splits[split]))
    batches = Batches(splits[split], info, batch_size or config.train.batch_size, where)
    folding: dict[str, Any] = {"layers": 0, "gain": None, "compared_images": 0}
    if fold:
        folded, count = fold_batch_norm(model, info.image_shape)
        if count:
            first_images, _ = next(iter(batches))
            times = gain(model, folded, first_images)
            folding = {"layers": count, "gain": times, "compared_images": len(first_images)}
            model = folded
    loss_fn = build_loss(config.loss, info).to(where)
    model = fuse_pooling(model, info.image_shape)
    if config.data.average_flips:
        model = AverageFlips(model)
    start = time.perf_counter()
    evaluation = evaluate(model, batches, loss_fn, precision)
    seconds = time.perf_counter() - start

    confusion = confusion_matrix(labels, evaluation.predictions, len(info.classes))
    correct, n = int(confusion.diag().sum()), len(labels)
    return {
        "dataset": info.dataset,
        "split": split,
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "loss": evaluation.loss,
        "ci95": wilson_interval(correct, n),
        "per_class": per_class(confusion, info.classes),
        "confusion": confusion.tolist(),
        "checkpoint": str(path),
        "epoch": checkpoint["epoch"],
        "trained_on": trained_on,
        "unreadable": files.unreadable if files else [],
        "folding": folding,
        "evaluation_seconds": seconds,
        "average_flips": config.data.average_flips,
    }


def print_report(report: dict[str, Any]) -> None:
    low, high = report["ci95"]
    print(f"{report['checkpoint']}, epoch {report['epoch']}")
    print(
        f"{report['dataset']}, {report['split']} split: {report['correct']:,} of {report['n']:,} correct"
    )
    print(f"accuracy {report['accuracy']:.2%} (95% interval {low:.2%} to {high:.2%})")
    print(f"loss {report['loss']:.4f}")
    print("evaluated in {evaluation_seconds:.2f} s".format(**report))
    if report["average_flips"]:
        print("by the mean of the logits of each image and its mirror image (data.average_flips)")
    if report["unreadable"]:
        print(f"files left out, since they cannot be read: {len(report['unreadable']):,}")
    if report["folding"]["layers"]:
        print(
            "batch normalisation folded ({layers} layers): {gain:.2f} times as fast, "
            "same predictions on {compared_images} images".format(**report["folding"])
        )

    names = [row["name"] for row in report["per_class"]]
    width = max(5, *map(len, names))
    print(f"\n{'class':<{width}}  precision   recall       F1   images")
    for row in report["per_class"]:
        fractions = "  ".join(f"{row[key]:7.2%}" for key in ("precision", "recall", "f1"))
        print(f"{row['name']:<{width}}    {fractions}  {row['support']:7,}")

    if len(names) <= 20:  # wider than a terminal beyond
        cell = max(map(len, names + [str(count) for row in report["confusion"] for count in row]))
        print("\nconfusion (a row for each true class, a column for each predicted one)")
        print(" " * width, *(f"{name:>{cell}}" for name in names))
        for name, counts in zip(names, report["confusion"], strict=True):
            print(f"{name:<{width}}", *(f"{count or '.':>{cell}}" for count in counts))


def main() -> None:
    summary, _, commands = (__doc__ or "").strip().partition("\n\n")
    parser = ArgumentParser(
        "test.py", description=summary, epilog=commands, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ckpt",
        nargs="?",
        type=Path,
        metavar="RUN",
        help="run folder, folder of several seeds, or .pt file; default: the newest run",
    )
    parser.add_argument(
        "--split", default="test", choices=["train", "val", "test"], help="default: test"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the report there too; - prints it alone"
    )
    parser.add_argument(
        "--data-root", metavar="DIR", help="where the images are now, if they have moved"
    )
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda", "mps"], help="default: as in training"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="default: as in training")
    parser.add_argument(
        "--no-fold",
        dest="fold",
        action="store_false",
        help="leave batch normalisation as it is instead of folding it into the layers before it",
    )
    args = parser.parse_args()
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: should be at least 1")

    from checkpoint import find_checkpoint, find_seeds
    from files import write_json
    from metrics import mean_of_seeds

    paths = find_seeds(args.ckpt) or [find_checkpoint(args.ckpt)]
    copy = None if args.json in (None, "-") else Path(args.json)
    if copy and (copy.is_dir() or not copy.parent.is_dir()):
        raise UserError(f"--json {args.json}: should name a file in a folder that exists")
    reports = []
    for path in paths:
        report = judge(path, args.split, args.data_root, args.device, args.batch_size, args.fold)
        reports.append(report)
        if report["trained_on"]:
            print(
                f"warning: {path}: {report['trained_on']:,} of these {report['n']:,} images were trained on",
                file=sys.stderr,
            )
        if len(paths) > 1 and args.json != "-":
            print(
                f"{path}: {report['correct']:,} of {report['n']:,} correct, {report['accuracy']:.2%}"
            )
    result, folders = reports[0], [path.parent for path in paths]
    if len(paths) > 1:
        accuracies = [report["accuracy"] for report in reports]
        seeds = mean_of_seeds(accuracies)
        result = {key: reports[0][key] for key in ("dataset", "split", "n")} | {
            "accuracy": seeds.mean,
            "sd": seeds.sd,
            "ci95": seeds.ci95,
            "accuracies": accuracies,
        }
        folders.append(args.ckpt)
        reports.append(result)
    if args.json == "-":
        print(json.dumps(result, indent=2))
    elif len(paths) > 1:
        print(f"{result['dataset']}, {args.split} split: accuracy {seeds}")
    else:
        print_report(result)
    try:
        if copy:
            copy.write_text(json.dumps(result, indent=2))
        for folder, report in zip(folders, reports, strict=True):
            if (folder / "config.yaml").exists() or folder == args.ckpt:  # a run folder
                write_json(folder / f"{args.split}.json", report)
    except OSError as error:
        raise UserError(f"cannot write the report: {error}") from None


if __name__ == "__main__":
    sys.exit(exit_code(main))
