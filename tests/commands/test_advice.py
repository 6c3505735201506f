"""Whatever a message tells to type is typed here: advice that fails is worse than none."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from conftest import load_config
from test_hints import HINTS, imitate_run

import test as test_script
from nanocnn.config.complaints import TEXTS
from nanocnn.config.spelling import (
    EXAMPLES,
    OF_NETWORKS,
    SWITCHES,
    VALUES,
    all_keys,
    assignments,
    missing_names,
)
from nanocnn.system.errors import UserError
from nanocnn.system.output import in_shell

MISTAKES = """
train.py --gpus 0
train.py --gpus=2
train.py --device cuda:0
train.py --device gpu
train.py --precision=half
train.py --precision 16
train.py --precision bf16-mixed
train.py --fp16
train.py --half
train.py --amp
train.py --amp true
train.py --amp false
train.py --bf16
train.py --mixed-precision
train.py --optimizer Adam
train.py --optimizer SGD
train.py --adam
train.py --cosine
train.py --scheduler CosineAnnealingLR
train.py --scheduler
train.py --loss CrossEntropyLoss
train.py --dataset CIFAR-10
train.py --dataset pictures
train.py --data pictures
train.py --data 'my pictures'
train.py --ema
train.py --no-ema
train.py --early-stopping
train.py --betas 0.9 0.99
train.py --milestones 3 6
train.py --gamma 0.5
train.py schedule=exponential --gamma 0.5
train.py --dropout 0.5
train.py --hidden 64
train.py --warmup-epochs 5
train.py --val-split 20%
train.py --epochs three
train.py --epochs 3.0
train.py --batch-size=1e2
train.py --name 'a b'
train.py --flip yes
train.py --augment
train.py --augment.flip
train.py --max-lr
train.py --dry_run true
train.py --fast-dev-run 1
train.py --resume
train.py --run-dir
train.py --seeds
train.py --config
train.py --ckpt run/best.pt
train.py --weights run/last.pt
train.py --checkpoint "it's a run/best.pt"
train.py --ckpt five
train.py --resume five
train.py --resume run/best.pt
train.py --config "it's a run"
train.py "it's a run"
train.py --ckpt ./-dash
train.py cpu
train.py optimizer
train.py seeds 4
train.py optimizer=3
train.py model.init=3
train.py train=3
train.py data=mnist
train.py data=pictures
train.py data.augment=flip
train.py --config adam.yaml
train.py --config deep.yaml
train.py --run-dir run
test.py --gpus 0
test.py --no-cuda
test.py --device cuda:0
test.py --split validation
test.py --val
test.py --data pictures
test.py --json
test.py run/config.yaml
test.py "it's a run"
test.py five
test.py --config "it's a run/config.yaml"
test.py --ckpt run/config.yaml
test.py --ckpt unjudged
model.py --gpu
model.py --lr
nanocnn layers --ckpt "it's a run"
nanocnn find-lr --epochs x
"""
ASKED = [line for line in HINTS if re.search("(type|such as) ", HINTS[line])]
NOT_THERE = {"train.py --ckpt run"}


def told(error):
    """The commands that a message tells to type, one or other of which is to be chosen."""
    begin = "(?:should be a section, such as|type(?: a value, such as| one, such as)?)"
    end = r"(?: \('(?:python|nanocnn) .*?shows the usage\)|, with the quotes)?\s*$"
    text = re.search(rf"{begin} (.*?){end}", error)
    assert text, error
    aside = (
        r" (to go on with it|to go on with its run|goes on with it|to repeat it|to repeat the run)$"
    )
    for part in re.split(r",? or (?!for more)|; (?=python)", text[1]):
        part = re.sub("^(one of them, such as|for all, or for more --seeds than these:) ", "", part)
        yield re.sub(aside, "", part)


@pytest.mark.parametrize("command", [*MISTAKES.strip().splitlines(), *sorted({*ASKED} - NOT_THERE)])
def test_what_a_message_tells_to_type_is_understood(script, command):
    for run in ("run", "it's a run", "-dash", "five/seed_3", "five/seed_4", "unjudged"):
        imitate_run(Path(run))
    Path("unjudged/best.pt").unlink()
    for folder in ("pictures", "my pictures"):
        Path(folder, "train").mkdir(parents=True)
    Path("adam.yaml").write_text("optimizer: adam")
    Path("deep.yaml").write_text("train: 3")
    # braces without quotes reach the script in pieces
    name, *arguments = command.split() if "{" in command else shlex.split(command)
    error = script(name, *arguments).error
    for text in told(error):
        words = shlex.split(text)
        if text.startswith("{"):  # what to write in a YAML file
            key = re.search(r"line \d+: (\w+) = ", error)[1]
            Path("mine.yaml").write_text(f"{key}: {text}")
            words = ["--config", "mine.yaml"]
        if words[0] == "python":
            words = words[2:]
        if name == "test.py":
            assert test_script.parse(words)
        elif name == "train.py":
            kept = [word for word in arguments if word.startswith("schedule=")]
            # --dry-run trains, and this says that it was understood
            words = ["--print-config" if word == "--dry-run" else word for word in words]
            done = script(name, *kept, *words, "--print-config")
            assert done.code == 0, (text, done.error)
        else:
            path = words[words.index("--config") + 1] if "--config" in words else "digits.yaml"
            assert load_config(path, [word for word in words if re.match(r"[a-z_.]+=", word)])


def loads(overrides):
    try:
        load_config("digits.yaml", shlex.split(overrides))
    except UserError as error:  # with a key that is not at its default
        assert "cannot act" in str(error), overrides
    return True


def test_every_key_has_an_example_that_can_be_typed():
    for key in {*all_keys(), *EXAMPLES, *OF_NETWORKS} - {"model.name"}:
        if not key.startswith(("model.init.", "optimizer.groups.")):  # of sections in sections
            shown = assignments([key], None).removeprefix("a value, such as ")
            assert f"{key}=" in shown and loads(shown)


def test_what_is_called_otherwise_elsewhere_is_one_that_is_taken():
    for key, values in VALUES.items():
        assert all(loads(f"{key}={value}") for value in values)
    assert all(loads(shlex.quote(override)) for override in SWITCHES.values())
    assert all(loads(f"{'.'.join(key)}={text}") for key, text in TEXTS.items())
    for key, network in OF_NETWORKS.items():
        assert missing_names(key, {}) == [f"model={network}"]
        assert missing_names(key, {"model": "mlp"}) == []


@pytest.mark.parametrize("name", ["run", "my run", "it's", "-x", "a\nb", "ü", "a\x1b'\\b"])
def test_a_path_is_shown_as_a_shell_reads_it(tmp_path, name):
    path, shown = tmp_path / name, in_shell(name)
    path.mkdir()
    assert "\n" not in shown and "\x1b" not in shown
    done = subprocess.run(["bash", "-c", f"rmdir {shown}"], check=False, cwd=tmp_path)
    assert done.returncode == 0 and not path.exists()


@pytest.mark.parametrize("override", ["log.every", "data.limit", "data.augment.shift", "seed"])
def test_a_number_that_is_too_large_is_blamed_on_the_place_it_was_written_in(script, override):
    error = script("train.py", f"{override}={10**30}").error
    assert error.startswith(f"error: command line: {override}")


@pytest.mark.parametrize("key, text", TEXTS.items())
def test_a_text_of_no_known_form_is_told_an_example_of_one(script, key, text):
    for value in ("x", "5 of them", "-1", "true"):
        error = script("train.py", f"{'.'.join(key)}={value}").error
        assert error.strip().endswith(f"a text such as {text}") and "^" not in error


def test_seeds_that_do_not_begin_at_zero_go_on_as_told(script):
    few = ["model=mlp", "train.epochs=1", "data.limit=60"]
    begun = ["--seeds", "2", "--run-dir", "my seeds", "seed=3"]
    assert script("train.py", *few, *begun).code == 0
    Path("my seeds/seed_4/run.json").unlink()
    error = script("train.py", "--resume", "my seeds").error
    *_, again = told(error)
    done = script("train.py", *shlex.split(again))
    assert done.code == 0 and "validation accuracy of 2 seeds" in done.out, done.error
