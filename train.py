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
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from errors import ArgumentParser, UserError, exit_code
from imports import quick_imports
from laps import Laps

if TYPE_CHECKING:
    from config import Config, Train
    from resume import Resume


def train(
    config: Config,
    run_dir: Path | None = None,
    laps: Laps | None = None,
    resume: Resume | None = None,
    dry_run: bool = False,
) -> Path:
    """Train as `config` says and return the run folder, which then holds everything (see README).

    With `resume` that run goes on from its checkpoint, to the very bits that it would have come to. Raises
    UserError before anything is written, NonFiniteError when the loss is no longer a number, and Stopped
    after a signal, once there is a checkpoint to go on from. A `dry_run` has one step, and validates a batch.
    """
    laps = laps or Laps()
    # imported here and not above, so that --help and a mistyped config answer at once
    from dataclasses import asdict
    from itertools import islice

    import torch
    from torch import nn
    from tqdm import tqdm

    from augment import harmful
    from checkpoint import Due, Progress, load_state, save_checkpoint
    from data_report import keep_data_report, print_data_report
    from dataset import (
        Batches,
        checksum,
        data_info,
        few_images,
        image_hashes,
        load_splits,
    )
    from device import pick_computing
    from engine import evaluate, train_one_epoch
    from fused import fuse_pooling
    from layer_table import by, summary
    from layers import AverageFlips
    from loss import build_loss
    from network import build_network, fit_whitening
    from optimizer import build_optimizer, learning_rate
    from record import Record, run_facts
    from run_dir import check_free_space, create_run_dir, locked, read_facts, rewrite_config
    from signals import Stopped, StopRequest, handled

    laps("import")
    computing = pick_computing(config)
    device, precision, memory_format = computing

    # data: the training images and, carved from them, the validation images
    splits = load_splits(config.data, config.seed)
    info = data_info(config.data, splits["train"])
    batch_size = config.train.batch_size
    refuse_idle(config.train, len(splits["train"].labels))
    if config.train.overfit_batches:
        few = config.train.overfit_batches * batch_size
        splits = dict.fromkeys(("train", "val"), few_images(splits["train"], few, config.seed))
    digests = {name: image_hashes(split) for name, split in splits.items()}
    data_sha256 = checksum(splits, digests)
    train_batches = Batches(splits["train"], info, batch_size * config.train.accumulate, device)
    val_batches = Batches(splits["val"], info, batch_size, device) if "val" in splits else None
    laps("data")

    # network, loss, optimizer; the learning rate is a function of the step
    torch.manual_seed(config.seed)
    checkpoint = resume.checkpoint if resume else None
    model = build_network(config, info, trained=checkpoint is not None)
    model = model.to(device, memory_format=memory_format)  # type: ignore[call-overload]
    if not checkpoint:
        fit_whitening(model, train_batches)
    loss_fn = build_loss(config.loss, info).to(device)
    optimizer = build_optimizer(config.optimizer, model)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scaler": scaler}
    ema = None
    if config.train.ema:
        from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

        average = get_ema_multi_avg_fn(config.train.ema)
        ema = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        parts["ema"] = ema.module
    # the same weights, computed faster
    trained = judged = fuse_pooling(model, info.image_shape)
    if ema:
        judged = fuse_pooling(ema.module, info.image_shape)
    if config.data.average_flips:
        judged = AverageFlips(judged)
    if config.train.compile:
        trained = cast(nn.Module, torch.compile(model))
    epochs, steps_per_epoch = config.train.epochs, len(train_batches)
    steps = epochs * steps_per_epoch

    progress = Progress()
    if checkpoint:
        progress = load_state(checkpoint, parts, data_sha256)
        if ema:
            ema.n_averaged.fill_(1)  # from 0 it would begin anew

    def lr_at(step: int) -> float:
        peak, val_losses = config.optimizer.lr, progress.val_losses
        return learning_rate(config.schedule, peak, step, steps_per_epoch, epochs, val_losses)

    # the run folder: config.yaml, run.json, metrics.jsonl, TensorBoard curves, last.pt, best.pt
    earlier = read_facts(resume.run_dir) if resume else None
    facts = run_facts(computing, splits, data_sha256, laps, earlier)
    counts = " and ".join(f"{len(split.labels):,} {name}" for name, split in splits.items())
    print(f"{config.data.dataset}: {counts} images of {by(info.image_shape)}")
    print_data_report(splits, info, digests)
    print(f"{config.model.name}: {summary(model, info.image_shape)}")
    for warning in harmful(config.data):
        print(f"warning: {warning}", file=sys.stderr)
    check_free_space(resume.run_dir if resume else run_dir or Path("runs"), model)
    run_dir = resume.run_dir if resume else create_run_dir(config, run_dir)
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
        due, patience = Due(config.train.checkpoint_every), config.train.patience
        saved = (progress.epoch, progress.step)

        def save(name: str) -> None:
            nonlocal saved
            mid_epoch = progress.step > progress.epoch * steps_per_epoch
            progress.partial = record.partial() if mid_epoch else None
            checkpoint = asdict(progress) | {
                "config": config.model_dump(mode="json"),
                "data": asdict(info),
                "data_sha256": data_sha256,
            }
            checkpoint |= {name: part.state_dict() for name, part in parts.items()}
            record.check_state(checkpoint)
            record.flush()
            save_checkpoint(run_dir / name, checkpoint)
            if name == "last.pt":
                saved = (progress.epoch, progress.step)
            laps("saving")

        try:
            for epoch in range(progress.epoch + 1, epochs + 1):
                if patience and progress.epoch - progress.best_epoch >= patience:
                    bar.write(f"no better validation for {patience} epochs: it stops")
                    break
                done = progress.step - progress.epoch * steps_per_epoch
                record.start_epoch(epoch, progress.partial if done else None)
                batches = train_batches.shuffled(
                    config.seed, epoch - 1, config.data.augment, done, config.data.sampling
                )
                updates = train_one_epoch(
                    trained, batches, loss_fn, optimizer, lr_at, precision, config.train, scaler
                )
                for update in updates:
                    progress.step = update.step
                    if ema:
                        ema.update_parameters(model)
                    record.update(update)
                    bar.update()
                    if update.step < epoch * steps_per_epoch and due(update.step):
                        laps("training")
                        save("last.pt")
                    request.check()
                    if dry_run:
                        break
                laps("training")

                validation = None
                if val_batches:
                    some = islice(val_batches, 1 if dry_run else None)
                    validation = evaluate(judged, request.until(some), loss_fn, precision)
                laps("validation")
                row = record.end_epoch(validation, lr_at(progress.step - 1))
                bar.write(epoch_line(row, epochs))

                progress.epoch = epoch
                if validation:
                    progress.val_losses.append(validation.loss)
                progress.validation = {"loss": row["val_loss"], "accuracy": row["val_accuracy"]}
                # by validation accuracy, a tie by the loss; without validation images the last is best
                score = (validation.accuracy, -validation.loss) if validation else (epoch, 0.0)
                if score > progress.best_score:
                    progress.best_epoch, progress.best_score = epoch, score
                    save("best.pt")  # before last.pt, which says that it is there
                if due(progress.step, epoch_is_over=True):
                    save("last.pt")
                if epoch < epochs:
                    request.check()
            if saved != (progress.epoch, progress.step):
                save("last.pt")
        except Stopped as stop:
            laps("training")
            if saved != (progress.epoch, progress.step):
                save("last.pt")
            folder = shlex.quote(str(run_dir))
            raise Stopped(stop.number, f"python train.py --resume {folder} goes on") from None

    print(
        f"best.pt: epoch {progress.best_epoch}"
        + (f", validation accuracy {progress.best_score[0]:.2%}" if val_batches else "")
    )
    return run_dir


def refuse_idle(options: Train, images: int) -> None:
    """Raises UserError for options of the loop that `images` training images are too few for."""
    overfit = options.overfit_batches
    if overfit and overfit * options.batch_size >= images:
        raise UserError(
            f"train.overfit_batches = {overfit}: cannot act, since {images:,} images are no more batches"
        )
    if (
        options.accumulate > 1
        and min(images, (overfit or images) * options.batch_size) <= options.batch_size
    ):
        raise UserError(
            f"train.accumulate = {options.accumulate}: cannot act, since an epoch has a single batch"
        )


def train_seeds(config: Config, seeds: int, run_dir: Path | None, resume: bool) -> Path:
    """A run for each of `seeds` seeds, in run_dir/seed_0 and so on, and what they came to in validation.

    With `resume` finished runs stay, and unfinished ones go on. Returns the folder of them all.
    """
    from checkpoint import load_checkpoint
    from metrics import mean_of_seeds
    from resume import is_finished, resume_newest
    from run_dir import create_seeds_dir
    from signals import Stopped

    if config.seed + seeds > 2**63:
        raise UserError(f"--seeds {seeds}: seeds from {config.seed} on would be too large")
    run_dir = create_seeds_dir(config, run_dir, resume)
    accuracies = []
    try:
        for seed in range(config.seed, config.seed + seeds):
            one, folder = config.model_copy(update={"seed": seed}), run_dir / f"seed_{seed}"
            earlier = resume_newest(one, folder) if resume else None
            print(f"seed {seed}: {folder}")
            if not (earlier and is_finished(earlier, one)):
                train(one, folder, resume=earlier)
            best = load_checkpoint(folder / "best.pt")
            accuracies.append(best["validation"]["accuracy"])
    except Stopped as stop:
        note = f"the same command with --run-dir {shlex.quote(str(run_dir))} --resume auto goes on"
        raise Stopped(stop.number, note) from None
    except UserError:
        with suppress(OSError):  # not empty, unless it was the first
            for empty in (run_dir, *run_dir.parents[:-1]):
                empty.rmdir()
        raise
    if None not in accuracies:
        print(f"validation accuracy of {seeds} seeds: {mean_of_seeds(accuracies)}")
    return run_dir


def try_one_step(config: Config, laps: Laps) -> None:
    """A run of one step, with a batch of its validation and all its files, in a folder that goes again."""
    from signals import Stopped

    once = {"epochs": 1, "checkpoint_every": None, "patience": None}
    changed = {"train": config.train.model_copy(update=once), "log": type(config.log)(every=1)}
    with TemporaryDirectory() as folder:
        try:
            train(config.model_copy(update=changed), Path(folder, "run"), laps, dry_run=True)
        except Stopped as stop:
            raise Stopped(stop.number, "nothing was kept") from None
    print("dry run: one step, a batch of its validation and its files work; nothing was kept")


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
        "--seeds",
        type=int,
        metavar="N",
        help="train N times, from the seed on, and say what the mean is",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="one step of everything, and nothing kept"
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

    if args.dry_run and (args.resume or args.seeds or args.run_dir):
        raise UserError("--dry-run: keeps nothing, so --resume, --seeds and --run-dir cannot act")
    if args.seeds is not None and args.seeds < 2:
        raise UserError(f"--seeds {args.seeds}: should be at least 2")
    if args.seeds and going_on:
        raise UserError("--seeds and --resume RUN: allowed is --resume auto with --run-dir")
    if args.seeds and args.resume and not args.run_dir:
        raise UserError("--seeds and --resume auto: --run-dir should name the folder of the runs")

    laps = Laps()
    with quick_imports():
        from config import to_yaml
        from configure import load_config
        from resume import config_of, is_finished, resume_newest, resume_run

    own = config_of(Path(args.resume)) if going_on else "digits.yaml"
    config = load_config(args.config or own, args.overrides)
    if args.print_config:
        print(to_yaml(config), end="")
        return
    if args.dry_run:
        try_one_step(config, laps)
        return
    resume = None
    if going_on:
        resume = resume_run(Path(args.resume), config)
    elif args.resume and not args.seeds:
        resume = resume_newest(config, args.run_dir)
    if resume and is_finished(resume, config):
        print(f"{resume.run_dir}: finished, {config.train.epochs} epochs; nothing to do")
        return
    if args.seeds:
        run_dir = train_seeds(config, args.seeds, args.run_dir, args.resume == "auto")
    else:
        run_dir = train(config, args.run_dir, laps, resume)
    folder = shlex.quote(str(run_dir))
    print(f"next: python test.py --ckpt {folder}")
    print(f"      tensorboard --logdir {'runs' if run_dir.parts[0] == 'runs' else folder}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
