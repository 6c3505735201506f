"""How fast the bare training step is, and the forward pass alone: no data, no logging, one batch again and again.

python -m benchmarks.step                                     # lenet at batch 256, every format and precision
python -m benchmarks.step lenet5 vgg11_bn.yaml --batch-size 128
python -m benchmarks.step --precision fp32                    # leave the others out

A row for each network or config, precision and layout in memory, as written in model.py and with its pooling fused
(fused.py); forward only with batch normalisation folded, as test.py does it. FLOP/s are multiply-adds of
convolutions and linear layers, counted twice, three times a training step but for the first layer, which has no
gradient of its input; `of_sgemm` is their share of what a large product of matrices reaches here in the same run.
"""

import argparse
import sys
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import median_seconds, report, sgemm_rate
from configure import load_config
from dataset import DATASETS
from device import pick_device, pick_precision, use_cpu_well
from errors import exit_code
from fused import fuse_pooling
from layer_table import macs, trace
from model import MODELS, build_model
from optimizer import build_optimizer
from rewrite import fold_batch_norm

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


def main() -> None:
    parser = argparse.ArgumentParser("step.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=["lenet"], help="of model.py, or configs")
    parser.add_argument("--batch-size", type=int, default=256, help="default: 256")
    parser.add_argument(
        "--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16", "fp16"]
    )
    args = parser.parse_args()
    use_cpu_well()
    device = pick_device("auto")
    rows = []
    for name in args.networks:
        config = load_config("mnist.yaml" if name in MODELS else name, [])
        if name in MODELS:
            config = load_config("mnist.yaml", [f"model={{name: {name}}}"])
        dataset = DATASETS[config.data.dataset]
        shape, classes = dataset.image_shape, len(dataset.classes)
        images = torch.randn(args.batch_size, *shape, device=device)
        labels = torch.randint(classes, (args.batch_size,), device=device)
        for precision_name in args.precision:
            precision = pick_precision(precision_name, device)
            for layout, memory_format in LAYOUTS.items():
                model = build_model(config.model.name, shape, classes, **config.model.arguments())
                calls, _ = trace(model, shape)
                work = [macs(call) for call in calls if macs(call)]
                model = model.to(device, memory_format=memory_format)  # type: ignore[call-overload]
                batch = images.contiguous(memory_format=memory_format)
                optimizer = build_optimizer(config.optimizer, model)
                folded, _ = fold_batch_norm(model, shape)
                for fused in (False, True):
                    network = fuse_pooling(model, shape) if fused else model
                    judged = fuse_pooling(folded, shape) if fused else folded
                    step = partial(train_step, network.train(), optimizer, precision, batch, labels)
                    seconds = median_seconds(step)
                    rate = args.batch_size / seconds
                    with (
                        torch.inference_mode(),
                        torch.autocast(device.type, precision, enabled=precision != torch.float32),
                    ):
                        forward = median_seconds(partial(judged.eval(), batch))
                    flops = 2 * (3 * sum(work) - work[0]) * rate / 1e9
                    limit = sgemm_rate()  # for each row anew, since the machine may be shared
                    rows.append(
                        {
                            "network": name,
                            "precision": precision_name,
                            "layout": layout,
                            "pooling": "fused" if fused else "as written",
                            "ms": 1000 * seconds,
                            "images_per_second": rate,
                            "GFLOP_per_second": flops,
                            "sgemm_GFLOP_per_second": limit,
                            "of_sgemm": flops / limit,
                            "forward_images_per_second": args.batch_size / forward,
                        }
                    )
    report(f"step_{args.batch_size}", rows, batch_size=args.batch_size)


if __name__ == "__main__":
    sys.exit(exit_code(main))
