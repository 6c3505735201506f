"""How fast the bare training step is, and the forward pass alone: no data, no logging, one batch
again and again.

python -m benchmarks.step                           # lenet at batch 256, each layout and precision
python -m benchmarks.step lenet5 vgg11_bn.yaml --batch-size 128
python -m benchmarks.step --precision fp32          # leave the others out

A row for each network or config, precision and layout in memory, as written in model.py and with
its pooling fused (fused.py); forward only with batch normalisation folded, as test.py does it.
FLOP/s are multiply-adds of convolutions and linear layers, counted twice, three times a training
step but for the first layer, which has no gradient of its input; `of_sgemm` is their share of what
a large product of matrices reaches here in the same run.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import median_seconds, report, sgemm_rate
from model import MODELS
from nanocnn.config.load import load_config
from nanocnn.config.schema import Config
from nanocnn.images.sets import DATASETS
from nanocnn.networks.build import build_network, catalogue
from nanocnn.networks.fast_view import fast_view
from nanocnn.networks.rewrite import fold_batch_norm
from nanocnn.networks.table import macs, trace
from nanocnn.system.errors import exit_code
from nanocnn.system.startup import prepare_process
from nanocnn.training.device import Computing, pick_device, pick_precision
from nanocnn.training.optimizer import build_optimizer

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    precision: torch.dtype,
    images: Tensor,
    labels: Tensor,
) -> None:
    """Forward, loss, backward and update, as in engine.py, and not a line more."""
    optimizer.zero_grad()
    with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
        outputs = network(images)
        logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = F.cross_entropy(logits, labels)
        for weight, extra_logits in auxiliary:
            loss = loss + weight * F.cross_entropy(extra_logits, labels)
    loss.backward()
    optimizer.step()
    if images.is_cuda:
        torch.cuda.synchronize()


def measure(
    model: nn.Module, config: Config, computing: Computing, batch: tuple[Tensor, Tensor]
) -> Iterator[dict[str, Any]]:
    """A row with the pooling as written, and one with it fused."""
    images, labels = batch
    channels, height, width = images.shape[1:]
    shape = (channels, height, width)
    calls, _ = trace(model, shape)
    work = [macs(call) for call in calls if macs(call)]
    model = computing.place(model)
    images = images.contiguous(memory_format=computing.memory_format)
    optimizer = build_optimizer(config.optimizer, model, shape)
    folded = fold_batch_norm(model, shape).model
    for fused in (False, True):
        network = fast_view(model, shape) if fused else model
        judged = fast_view(folded, shape) if fused else folded
        network.train()
        seconds = median_seconds(
            partial(train_step, network, optimizer, computing.precision, images, labels)
        )
        rate = len(images) / seconds
        with torch.inference_mode(), computing.autocast():
            unfolded = median_seconds(partial(network.eval(), images))
            forward = median_seconds(partial(judged.eval(), images))
        flops = 2 * (3 * sum(work) - work[0]) * rate / 1e9
        limit = sgemm_rate()  # for each row anew, since the machine may be shared
        yield {
            "pooling": "fused" if fused else "as written",
            "ms": 1000 * seconds,
            "images_per_second": rate,
            "GFLOP_per_second": flops,
            "sgemm_GFLOP_per_second": limit,
            "of_sgemm": flops / limit,
            "forward_images_per_second": len(images) / forward,
            "gain_of_folding": unfolded / forward,
        }


def main() -> None:
    parser = argparse.ArgumentParser("step.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=["lenet"], help="of model.py, or configs")
    parser.add_argument("--batch-size", type=int, default=256, help="default: 256")
    parser.add_argument(
        "--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16", "fp16"]
    )
    args = parser.parse_args()
    prepare_process()
    device = pick_device("auto")
    rows = []
    networks = catalogue(MODELS)
    for name in args.networks:
        config = load_config("mnist.yaml" if name in MODELS else name, networks=networks)
        if name in MODELS:
            config = load_config("mnist.yaml", [f"model={{name: {name}}}"], networks=networks)
        dataset = DATASETS[config.data.dataset]
        shape, classes = dataset.image_shape, len(dataset.classes)
        images = torch.randn(args.batch_size, *shape, device=device)
        labels = torch.randint(classes, (args.batch_size,), device=device)
        for precision, (layout, memory_format) in product(args.precision, LAYOUTS.items()):
            computing = Computing(device, pick_precision(precision, device), memory_format)
            model = build_network(config, networks, shape, classes)
            for row in measure(model, config, computing, (images, labels)):
                kind = {"network": name, "precision": precision, "layout": layout}
                rows.append(kind | row)
    report(f"step_{args.batch_size}", rows, batch_size=args.batch_size)


if __name__ == "__main__":
    sys.exit(exit_code(main))
