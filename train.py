"""Train a network as a YAML config describes.

python train.py                                     # configs/digits.yaml: real digits, nothing to download
python train.py --config mnist.yaml                 # a bare name is looked up in configs/
python train.py --config mnist.yaml optimizer.lr=0.05 train.epochs=3
python train.py --resume runs/mine                  # go on exactly where it stopped; auto = the newest unfinished
python train.py --config mnist.yaml --print-config  # every key, default and comment; nothing runs
tensorboard --logdir runs
"""

from __future__ import annotations

import shlex
import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from errors import ArgumentParser, UserError, exit_code
from laps import Laps

if TYPE_CHECKING:
    from config import Config
    from resume import Resume


def train(
    config: Config,
    run_dir: Path | None = None,
    laps: Laps | None = None,
    resume: Resume | None = None,
) -> Path:
    """Train as `config` says and return the run folder, which then holds everything (see README).

    With `resume` that run goes on from its checkpoint, to the very bits that it would have come to. Raises
    UserError before anything is written, NonFiniteError when the loss is no longer a number, and Stopped
    after a signal, once there is a checkpoint to go on from.
    """
    laps = laps or Laps()
    # imported here and not above, so that --help and a mistyped config answer at once
    from dataclasses import asdict

    import torch
    from tqdm import tqdm

    from checkpoint import Due, Progress, load_state, save_checkpoint
    from data_report import keep_data_report, print_data_report
    from dataset import Batches, checksum, data_info, image_hashes, load_splits
    from device import pick_device, pick_precision
    from engine import evaluate, train_one_epoch
    from layer_table import by, summary
    from loss import build_loss
    from model import build_model
    from optimizer import build_optimizer, learning_rate
    from record import Record, run_facts
    from run_dir import check_free_space, create_run_dir, locked, read_facts, rewrite_config
    from signals import Stopped, StopRequest, handled

    laps("import")
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)

    # data: the training images and, carved from them, the validation images
    splits = load_splits(config.data, config.seed)
    info = data_info(config.data, splits["train"])
    digests = {name: image_hashes(split) for name, split in splits.items()}
    data_sha256 = checksum(splits, digests)
    train_batches = Batches(splits["train"], info, config.train.batch_size, device)
    val_batches = None
    if "val" in splits:
        val_batches = Batches(splits["val"], info, config.train.batch_size, device)
    laps("data")

    # network, loss, optimizer; the learning rate is a function of the step
    torch.manual_seed(config.seed)
    checkpoint = resume.checkpoint if resume else None
    arguments = config.model.arguments(trained=checkpoint is not None)
    model = build_model(config.model.name, info.image_shape, len(info.classes), **arguments)
    model = model.to(device)
    loss_fn = build_loss(config.loss)
    optimizer = build_optimizer(config.optimizer, model)
    epochs, steps_per_epoch = config.train.epochs, len(train_batches)
    steps = epochs * steps_per_epoch

    def lr_at(step: int) -> float:
        return learning_rate(config.schedule, config.optimizer.lr, step, steps)

    progress = Progress()
    if checkpoint:
        progress = load_state(checkpoint, model, optimizer, data_sha256)

    # the run folder: config.yaml, run.json, metrics.jsonl, TensorBoard curves, last.pt, best.pt
    earlier = read_facts(resume.run_dir) if resume else None
    facts = run_facts(device, precision, splits, data_sha256, laps, earlier)
    check_free_space(resume.run_dir if resume else run_dir or Path("runs"), model)
    run_dir = resume.run_dir if resume else create_run_dir(config, run_dir)
    counts = " and ".join(f"{len(split.labels):,} {name}" for name, split in splits.items())
    print(f"{config.data.dataset}: {counts} images of {by(info.image_shape)}")
    print_data_report(splits, info, digests)
    print(f"{config.model.name}: {summary(model, info.image_shape)}")
    print(
        f"{facts['device']}, {facts['threads']} threads, {facts['precision']}; writing to {run_dir}"
    )
    if checkpoint:
        print(f"resuming after step {progress.step:,} of {steps:,}")
    laps("build")

    with (
        handled(request := StopRequest()),
        locked(run_dir),
        Record(run_dir, config.log.every, steps_per_epoch, facts, progress) as record,
        tqdm(total=steps, initial=progress.step, unit="step", disable=None, leave=False) as bar,
    ):
        if resume:
            rewrite_config(config, run_dir)
        keep_data_report(run_dir, splits, digests)
        due = Due(config.train.checkpoint_every)
        saved = (progress.epoch, progress.step)

        def save(name: str) -> None:
            nonlocal saved
            record.check_state(model, optimizer)
            record.flush()
            mid_epoch = progress.step > progress.epoch * steps_per_epoch
            progress.partial = record.partial() if mid_epoch else None
            checkpoint = asdict(progress) | {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "config": config.model_dump(mode="json"),
                "data": asdict(info),
                "data_sha256": data_sha256,
            }
            save_checkpoint(run_dir / name, checkpoint)
            saved = (progress.epoch, progress.step)
            laps("saving")

        try:
            for epoch in range(progress.epoch + 1, epochs + 1):
                done = progress.step - progress.epoch * steps_per_epoch
                record.start_epoch(epoch, progress.partial if done else None)
                batches = train_batches.shuffled(
                    config.seed, epoch - 1, config.data.augment, start=done
                )
                updates = train_one_epoch(model, batches, loss_fn, optimizer, lr_at, precision)
                for update in updates:
                    progress.step = update.step
                    record.update(update)
                    bar.update()
                    if update.step < epoch * steps_per_epoch and due(update.step):
                        laps("training")
                        save("last.pt")
                    request.check()
                laps("training")

                validation = None
                if val_batches:
                    validation = evaluate(model, request.until(val_batches), loss_fn, precision)
                laps("validation")
                row = record.end_epoch(validation, lr_at(progress.step - 1))
                bar.write(epoch_line(row, epochs))

                progress.epoch = epoch
                progress.validation = {"loss": row["val_loss"], "accuracy": row["val_accuracy"]}
                # by validation accuracy, a tie by the loss; without validation images the last is best
                score = (validation.accuracy, -validation.loss) if validation else (epoch, 0.0)
                if score > progress.best_score:
                    progress.best_epoch, progress.best_score = epoch, score
                    save("best.pt")  # before last.pt, which says that it is there
                if due(progress.step, epoch_is_over=True) or epoch == epochs:
                    save("last.pt")
                if epoch < epochs:
                    request.check()
        except Stopped as stop:
            if saved != (progress.epoch, progress.step):
                save("last.pt")
            folder = shlex.quote(str(run_dir))
            raise Stopped(stop.number, f"python train.py --resume {folder} goes on") from None

    print(
        f"best.pt: epoch {progress.best_epoch}"
        + (f", validation accuracy {progress.best_score[0]:.2%}" if val_batches else "")
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
    parser.add_argument("--config", metavar="FILE", help="default: digits.yaml")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/<name>/<time>")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="the run folder to go on with; auto: the newest unfinished run of the config, or a new one",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the whole config and stop"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="change any key of the config"
    )
    args = parser.parse_intermixed_args()

    going_on = args.resume not in (None, "auto")
    if going_on and args.run_dir:
        raise UserError("--run-dir and --resume RUN: the run goes on in its own folder")

    laps = Laps()
    from config import to_yaml
    from configure import load_config
    from resume import config_of, is_finished, resume_newest, resume_run

    own = config_of(Path(args.resume)) if going_on else "digits.yaml"
    config = load_config(args.config or own, args.overrides)
    if args.print_config:
        print(to_yaml(config), end="")
        return
    resume = None
    if going_on:
        resume = resume_run(Path(args.resume), config)
    elif args.resume:
        resume = resume_newest(config, args.run_dir)
    if resume and is_finished(resume, config):
        print(f"{resume.run_dir}: finished, {config.train.epochs} epochs; nothing to do")
        return
    train(config, args.run_dir, laps, resume)


if __name__ == "__main__":
    sys.exit(exit_code(main))
