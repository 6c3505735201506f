"""Threads, memory and layouts that a run computes with."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import PROJECT
from torch import nn

from nanocnn.images.randomness import seed_torch
from nanocnn.system.errors import UserError
from nanocnn.system.startup import prepare_process
from nanocnn.training.device import Computing, pick_memory_format, refuse_shared

CPU, CUDA, MPS = map(torch.device, ("cpu", "cuda", "mps"))


@pytest.mark.parametrize(
    "asked, device, precision, expected",
    [
        ("auto", CPU, torch.float32, torch.channels_last),
        ("auto", CPU, torch.bfloat16, torch.channels_last),
        ("auto", CUDA, torch.float32, torch.contiguous_format),
        ("auto", CUDA, torch.bfloat16, torch.channels_last),
        ("auto", MPS, torch.float32, torch.contiguous_format),
        (True, MPS, torch.float32, torch.channels_last),
        (False, CPU, torch.float32, torch.contiguous_format),
    ],
)
def test_the_layout_is_what_was_asked_for_or_what_is_faster(asked, device, precision, expected):
    assert pick_memory_format(asked, device, precision) is expected


@pytest.mark.parametrize(
    "layer, device, is_safe",
    [
        (nn.Conv2d(7, 8, 1, stride=2), CPU, False),
        (nn.Conv2d(1, 8, 1, stride=(1, 3)), CPU, False),
        (nn.Conv2d(8, 8, 1, stride=2), CPU, True),
        (nn.Conv2d(7, 8, 1), CPU, True),
        (nn.Conv2d(7, 8, 3, stride=2), CPU, True),
        (nn.Conv2d(7, 8, 1, stride=2), CUDA, True),
    ],
)
def test_a_layout_in_which_torch_corrupts_memory_is_not_taken(layer, device, is_safe):
    computing = Computing(device, torch.float32, torch.channels_last)
    suited = computing.suited_to(nn.Sequential(nn.ReLU(), layer))
    assert suited.is_channels_last == is_safe


@pytest.mark.parametrize(
    "layer, device, is_auto, expected",
    [
        (nn.Conv2d(8, 8, 3, groups=8), CPU, True, torch.float32),
        (nn.Conv2d(8, 16, 3, groups=8), CPU, True, torch.float32),
        (nn.Conv2d(8, 8, 3, groups=8), CPU, False, torch.bfloat16),  # as it was asked for
        (nn.Conv2d(8, 8, 3, groups=8), CUDA, True, torch.bfloat16),
        (nn.Conv2d(8, 8, 3, groups=2), CPU, True, torch.bfloat16),
        (nn.Conv2d(1, 8, 3), CPU, True, torch.bfloat16),
    ],
)
def test_auto_takes_no_bf16_for_depthwise_convolutions(layer, device, is_auto, expected):
    computing = Computing(device, torch.bfloat16, torch.channels_last, is_auto=is_auto)
    assert computing.suited_to(nn.Sequential(nn.ReLU(), layer)).precision == expected


@pytest.mark.slow
def test_a_narrow_network_of_shortcuts_trains(tmp_path):
    """In another process: where memory is corrupted it ends by a signal."""
    options = ["model={name: resnet18, width: 0.05}", "train.epochs=2", "data.limit=100"]
    command = [sys.executable, PROJECT / "train.py", *options]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    refused = subprocess.run(
        [*command, "train.channels_last=true"],
        cwd=tmp_path, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert refused.returncode == 2 and "train.channels_last = true" in refused.stderr


@pytest.mark.parametrize(
    "quota, most", [("max 100000", None), ("150000 100000", 1), ("50000 100000", 1)]
)
def test_a_container_gets_no_more_threads_than_it_may_use(tmp_path, quota, most):
    before = torch.get_num_threads()
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    try:
        prepare_process(tmp_path / "cpu.max")
        assert torch.get_num_threads() == (before if most is None else min(before, most))
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
@pytest.mark.slow
def test_freed_memory_stays_with_the_process():
    """A block taken again must not be cleared and mapped anew, which shows in the page faults."""
    code = """if True:
        import resource, sys, torch
        from nanocnn.system.startup import prepare_process
        if sys.argv[1] == "kept":
            prepare_process()
        for _ in range(10):
            torch.empty(2**24).fill_(1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            torch.empty(2**24).fill_(1)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    given_back, kept = (
        int(subprocess.check_output([sys.executable, "-c", code, how], cwd=PROJECT))
        for how in ("given back", "kept")
    )
    assert kept < given_back / 10


def test_a_seed_gives_the_random_numbers_of_torch():
    torch.manual_seed(5)
    expected = torch.rand(3)
    seed_torch(5, CPU)
    assert torch.equal(torch.rand(3), expected)


def test_each_process_of_a_machine_needs_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    refuse_shared(torch.device("cuda"), 2)
    refuse_shared(torch.device("cpu"), 3)
    with pytest.raises(UserError, match="3 processes of this machine have 2 GPUs"):
        refuse_shared(torch.device("cuda"), 3)
    with pytest.raises(UserError, match="device = mps"):
        refuse_shared(torch.device("mps"), 1)


@pytest.mark.parametrize(
    ("asked", "processes", "expected"), [("1", 2, 3), ("1", 4, 1), ("2", 2, 2), ("1", 1, 1)]
)
def test_processes_of_a_machine_share_its_processors(asked, processes, expected):
    """torchrun sets OMP_NUM_THREADS=1 where nothing is said; more is a wish."""
    code = (
        "from pathlib import Path; import nanocnn.system.startup as startup, torch\n"
        "startup.cores = lambda: 6\n"
        "startup.prepare_process(Path('none'))\n"
        "print(torch.get_num_threads())"
    )
    numbers = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}
    numbers |= {"LOCAL_WORLD_SIZE": str(processes), "OMP_NUM_THREADS": asked}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, env=os.environ | numbers, cwd=PROJECT,
    )  # fmt: skip
    assert int(done.stdout) == expected
