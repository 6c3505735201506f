"""The other yardstick: the plain loop as one writes it who knows PyTorch well.

python -m benchmarks.plain_tuned --epochs 2 --batch-size 256

As benchmarks/plain.py, with what the guides advise: the data as tensors in memory, normalised once,
batches by an index, maps laid out as (N, H, W, C), autocast to bf16 where the processor has
instructions for it (--precision fp32: without), and the fused optimizer.
"""

import argparse
import json
import sys
import time

import torch
import torch.nn.functional as F
from torchvision import datasets

from model import LeNet
from nanocnn.system.errors import exit_code


def main() -> None:
    parser = argparse.ArgumentParser(
        "plain_tuned.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--root", default="data", help="default: data")
    parser.add_argument("--batch-size", type=int, default=256, help="default: 256")
    parser.add_argument("--epochs", type=int, default=2, help="default: 2")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    sets = [datasets.MNIST(args.root, train=is_train, download=True) for is_train in (True, False)]
    (images, labels), (test_images, test_labels) = (
        ((each.data[:, None].float() / 255 - 0.1307) / 0.3081, each.targets) for each in sets
    )
    model = LeNet((1, 28, 28), 10)
    model.eval()(torch.zeros(1, 1, 28, 28))  # the lazy layer finds its size
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    is_mixed = args.precision == "bf16"
    for epoch in range(1, args.epochs + 1):
        start = time.perf_counter()
        model.train()
        for chosen in torch.randperm(len(images)).split(args.batch_size):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
                loss = F.cross_entropy(model(images[chosen]), labels[chosen])
            loss.backward()
            optimizer.step()
        seconds = time.perf_counter() - start
        model.eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            found = torch.cat([model(some).argmax(1) for some in test_images.split(1000)])
        accuracy = float((found == test_labels).float().mean())
        row = {"epoch": epoch, "accuracy": accuracy, "images_per_second": len(images) / seconds}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(main))
