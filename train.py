"""Train a network as a YAML config describes.

python train.py                                     # configs/digits.yaml: real digits, nothing to download
python train.py --config mnist.yaml                 # a bare name is looked up in configs/
python train.py --config mnist.yaml optimizer.lr=0.05 train.epochs=3
python train.py --config mnist.yaml --print-config  # every key, default and comment; nothing runs
tensorboard --logdir runs
"""

from __future__ import annotations

import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from errors import ArgumentParser, exit_code
from laps import Laps

if TYPE_CHECKING:
    from config import Config


def train(config: Config, run_dir: Path | None = None, laps: Laps | None = None) -> Path:
    """Train as `config` says and return the run folder, which then holds everything (see README).

    Raises UserError before anything is written, and NonFiniteError when the loss is no longer a number.
    """
    laps = laps or Laps()
    # imported here and not above, so that --help and a mistyped config answer at once
    from dataclasses import asdict

    import torch
    from tqdm import tqdm

    from checkpoint import save_checkpoint
    from dataset import Batches, data_info, load_splits
    from device import pick_device, pick_precision
    from engine import evaluate, train_one_epoch
    from loss import build_loss
    from model import build_model
    from optimizer import build_optimizer, learning_rate
    from record import Record, create_run_dir, run_facts

    laps("import")
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)

    # data: the training images and, carved from them, the validation images
    splits = load_splits(config.data, config.seed)
    info = data_info(config.data, splits["train"])
    batches = {
        name: Batches(split, info, config.train.batch_size, device)
        for name, split in splits.items()
    }
    train_batches, val_batches = batches["train"], batches.get("val")
    laps("data")

    # network, loss, optimizer; the learning rate is a function of the step
    torch.manual_seed(config.seed)
    model = build_model(
        config.model.name, info.image_shape, len(info.classes), **config.model.arguments()
    )
    model = model.to(device)
    loss_function = build_loss(config.loss)
    optimizer = build_optimizer(config.optimizer, model)
    epochs, steps_per_epoch = config.train.epochs, len(train_batches)
    steps = epochs * steps_per_epoch

    def lr_at(step: int) -> float:
        return learning_rate(config.schedule, config.optimizer.lr, step, steps)

    # the run folder: config.yaml, run.json, metrics.jsonl, TensorBoard curves, last.pt, best.pt
    facts = run_facts(device, precision, splits) | {"seconds": laps.seconds}
    run_dir = create_run_dir(config, run_dir)
    print(f"{config.model.name}: {sum(p.numel() for p in model.parameters()):,} parameters")
    print(", ".join(f"{len(split.labels):,} {name} images" for name, split in splits.items()))
    laps("build")

    best = (-1.0, 0.0)  # validation accuracy, and minus the loss to settle a tie
    best_epoch = 0
    with (
        Record(run_dir, config.log.every, steps_per_epoch, facts) as record,
        tqdm(total=steps, unit="step", disable=None, leave=False) as bar,  # on a terminal only
    ):
        for epoch in range(1, epochs + 1):
            record.start_epoch(epoch)
            epoch_batches = train_batches.shuffled(config.seed, epoch - 1, config.data.augment)
            for update in train_one_epoch(
                model, epoch_batches, loss_function, optimizer, lr_at, precision
            ):
                record.update(update)
                bar.update()
            laps("training")

            validation = (
                evaluate(model, val_batches, loss_function, precision) if val_batches else None
            )
            laps("validation")
            row = record.end_epoch(validation)
            bar.write(epoch_line(row, epochs))

            checkpoint = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "epoch": epoch,
                "step": row["step"],
                "validation": {"loss": row["val_loss"], "accuracy": row["val_accuracy"]},
                "config": config.model_dump(mode="json"),
                "data": asdict(info),
            }
            save_checkpoint(run_dir / "last.pt", checkpoint)
            # without validation images there is nothing to choose by: the last epoch counts as the best
            if validation is None or (validation.accuracy, -validation.loss) > best:
                if validation is not None:
                    best = (validation.accuracy, -validation.loss)
                best_epoch = epoch
                save_checkpoint(run_dir / "best.pt", checkpoint)
            laps("saving")

    print(f"best.pt is of epoch {best_epoch}; everything is in {run_dir}")
    print(f"next: python test.py --ckpt {run_dir}")
    print("      tensorboard --logdir runs")
    return run_dir


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """A row of metrics.jsonl for people."""
    val = (
        f"val {row['val_loss']:.4f} {row['val_accuracy']:7.2%} | "
        if row["val_loss"] is not None
        else ""
    )
    return (
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs} | "
        f"train {row['train_loss']:.4f} {row['train_accuracy']:7.2%} | {val}"
        f"{row['images_per_second']:,.0f} images/s | {row['seconds']:.1f} s"
    )


def main() -> None:
    summary, _, commands = (__doc__ or "").strip().partition("\n\n")
    parser = ArgumentParser(
        "train.py",
        description=summary,
        epilog=commands,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", default="digits.yaml", metavar="FILE", help="default: digits.yaml"
    )
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/<name>/<time>")
    parser.add_argument(
        "--print-config", action="store_true", help="print the whole config and stop"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="change any key of the config"
    )
    args = parser.parse_intermixed_args()

    laps = Laps()
    from config import load_config, to_yaml

    config = load_config(args.config, args.overrides)
    if args.print_config:
        print(to_yaml(config), end="")
    else:
        train(config, args.run_dir, laps)


if __name__ == "__main__":
    sys.exit(exit_code(main))
