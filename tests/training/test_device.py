"""Threads, memory and layouts that a run computes with."""

import subprocess
import sys

import pytest
import torch
from conftest import PROJECT

from nanocnn.images.randomness import seed_torch
from nanocnn.system.startup import prepare_process
from nanocnn.training.device import pick_memory_format

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
