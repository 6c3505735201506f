"""The yardstick: the training loop that everyone writes, as in PyTorch's own examples.

python -m benchmarks.plain                            # until 99 % of the test images, or ten epochs
python -m benchmarks.plain --epochs 1 --batch-size 256    # how fast one epoch is

The network of configs/mnist.yaml in float32, torchvision's MNIST through a DataLoader that
transforms image by image, SGD with momentum. After each epoch the test images are judged, as in the
loop that everyone writes; this project's own training never reads them.
"""

import argparse
import json
import sys
import time

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from benchmarks.measure import report
from model import LeNet
from nanocnn.system.errors import exit_code


def main() -> None:
    parser = argparse.ArgumentParser("plain.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", default="data", help="default: data")
    parser.add_argument("--batch-size", type=int, default=64, help="default: 64")
    parser.add_argument("--epochs", type=int, default=10, help="at most; default: 10")
    parser.add_argument("--until", type=float, default=0.99, help="accuracy; default: 0.99")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )
    train_set = datasets.MNIST(args.root, train=True, download=True, transform=transform)
    test_set = datasets.MNIST(args.root, train=False, transform=transform)
    train_loader = DataLoader(train_set, args.batch_size, shuffle=True)
    test_loader = DataLoader(test_set, 1000)
    model = LeNet((1, 28, 28), 10)
    model.eval()(torch.zeros(1, 1, 28, 28))  # the lazy layer finds its size
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    rows = []
    for epoch in range(1, args.epochs + 1):
        start = time.perf_counter()
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
        trained = time.perf_counter()
        model.eval()
        correct = 0
        with torch.no_grad():
            for images, labels in test_loader:
                correct += int((model(images).argmax(1) == labels).sum())
        row = {
            "epoch": epoch,
            "accuracy": correct / len(test_set),
            "images_per_second": len(train_set) / (trained - start),
            "evaluation_seconds": time.perf_counter() - trained,
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
        if row["accuracy"] >= args.until:
            break
    report(f"plain_{args.batch_size}", rows, batch_size=args.batch_size)


if __name__ == "__main__":
    sys.exit(exit_code(main))
