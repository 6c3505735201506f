"""Train a network as a YAML config describes.

python train.py                                     # configs/digits.yaml: real digits, nothing to download
python train.py --config mnist.yaml                 # a bare name is looked up in configs/
python train.py --config mnist.yaml optimizer.lr=0.05 train.epochs=3
python train.py --config mnist.yaml --print-config  # every key, default and comment; nothing runs
tensorboard --logdir runs
"""

from __future__ import annotations

import shlex
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
    from layer_table import by, summary
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
    train_batches = Batches(splits["train"], info, config.train.batch_size, device)
    val_batches = None
    if "val" in splits:
        val_batches = Batches(splits["val"], info, config.train.batch_size, device)
    laps("data")

    # network, loss, optimizer; the learning rate is a function of the step
    torch.manual_seed(config.seed)
    shape, classes = info.image_shape, len(info.classes)
    model = build_model(config.model.name, shape, classes, **config.model.arguments()).to(device)
    loss_fn = build_loss(config.loss)
    optimizer = build_optimizer(config.optimizer, model)
    epochs, steps_per_epoch = config.train.epochs, len(train_batches)
    steps = epochs * steps_per_epoch

    def lr_at(step: int) -> float:
        return learning_rate(config.schedule, config.optimizer.lr, step, steps)

    # the run folder: config.yaml, run.json, metrics.jsonl, TensorBoard curves, last.pt, best.pt
    facts = run_facts(device, precision, splits, laps)
    run_dir = create_run_dir(config, run_dir)
    counts = " and ".join(f"{len(split.labels):,} {name}" for name, split in splits.items())
    print(f"{config.data.dataset}: {counts} images of {by(shape)}")
    print(f"{config.model.name}: {summary(model, shape)}")
    print(
        f"{facts['device']}, {facts['threads']} threads, {facts['precision']}; writing to {run_dir}"
    )
    laps("build")

    best_epoch, best_score = 0, (-1.0, 0.0)
    with (
        Record(run_dir, config.log.every, steps_per_epoch, facts) as record,
        tqdm(total=steps, unit="step", disable=None, leave=False) as bar,  # on a terminal only
    ):
        for epoch in range(1, epochs + 1):
            record.start_epoch(epoch)
            epoch_batches = train_batches.shuffled(config.seed, epoch - 1, config.data.augment)
            updates = train_one_epoch(model, epoch_batches, loss_fn, optimizer, lr_at, precision)
            for update in updates:
                record.update(update)
                bar.update()
            laps("training")

            validation = None
            if val_batches:
                validation = evaluate(model, val_batches, loss_fn, precision)
            laps("validation")
            row = record.end_epoch(model, validation)
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
            # by validation accuracy, a tie by the loss; without validation images the last epoch is best
            score = (validation.accuracy, -validation.loss) if validation else (float(epoch), 0.0)
            if score > best_score:
                best_epoch, best_score = epoch, score
                save_checkpoint(run_dir / "best.pt", checkpoint)
            laps("saving")

    print(
        f"best.pt: epoch {best_epoch}"
        + (f", validation accuracy {best_score[0]:.2%}" if val_batches else "")
    )
    folder = shlex.quote(str(run_dir))
    print(f"next: python test.py --ckpt {folder}")
    print(f"      tensorboard --logdir {'runs' if run_dir.parts[0] == 'runs' else folder}")
    return run_dir


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """A row of metrics.jsonl for people."""
    val_loss, val_accuracy = row["val_loss"], row["val_accuracy"]
    parts = [
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}",
        f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:7.2%}",
        f"val loss {val_loss:.4f} accuracy {val_accuracy:7.2%}"
        if val_loss is not None
        else "no val",
        f"{row['images_per_second']:,.0f} images/s",
        f"{row['seconds']:.1f} s",
    ]
    return " | ".join(parts)


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
    from config import to_yaml
    from configure import load_config

    config = load_config(args.config, args.overrides)
    if args.print_config:
        print(to_yaml(config), end="")
    else:
        train(config, args.run_dir, laps)


if __name__ == "__main__":
    sys.exit(exit_code(main))
