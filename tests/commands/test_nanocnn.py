"""The command nanocnn: its verbs, and whose model.py they take."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

from nanocnn.commands.main import VERBS

pytestmark = pytest.mark.slow

FOREIGN = "open('was_run', 'w').close()\nMODELS = {}\n"
OWN = """
from torch import nn

class Tiny(nn.Module):
    def __init__(self, image_shape, num_classes, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

    def forward(self, images):
        return self.layers(images)

MODELS = {"tiny": Tiny}
"""


def test_help_names_every_verb_and_each_verb_has_examples(script):
    usage = script("nanocnn", "--help")
    assert usage.code == 0 and all(f"  {verb} " in usage.out for verb in VERBS)
    assert script("nanocnn").out == usage.out
    for verb in VERBS:
        with pytest.raises(SystemExit):
            script("nanocnn", verb, "--help")


@pytest.mark.parametrize("command", [["train.py"], ["test.py"], ["-m", "nanocnn", "find-lr"]])
def test_every_help_has_examples_and_defaults(command):
    done = subprocess.run(
        [sys.executable, *command, "--help"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "default" in done.stdout and "--c" in done.stdout.partition("options:")[2]
    assert "python " in done.stdout or "nanocnn find-lr --config" in done.stdout


def test_an_unknown_verb_is_refused_with_the_nearest(script):
    done = script("nanocnn", "find-lt")
    assert done.code == 2 and "did you mean 'find-lr'" in done.error


def test_layers_prints_the_table_of_model_py(script):
    done = script("nanocnn", "layers", "--config", "lenet5.yaml")
    assert done.code == 0 and "features.0" in done.out and "total" in done.out
    assert done.out == script("model.py", "--config", "lenet5.yaml").out
    assert f"networks: {PROJECT / 'model.py'}" in done.error


def test_a_foreign_model_py_is_not_run(script):
    Path("model.py").write_text(FOREIGN)
    assert script("nanocnn", "layers").code == 0
    Path("model.py").write_text(FOREIGN.replace("MODELS", "NETS"))
    Path("train.py").touch()
    done = script("nanocnn", "layers")
    assert done.code == 0 and not Path("was_run").exists()


def test_the_model_py_of_a_copy_of_the_project_counts_there(script):
    Path("model.py").write_text(OWN)
    Path("train.py").touch()
    done = script("nanocnn", "layers", "model.name=tiny")
    assert done.code == 0, done.error
    assert f"networks: {Path('model.py').absolute()}" in done.error and "7,850" in done.out
    Path("other.py").write_text(OWN.replace('"tiny"', '"other"'))
    assert script("nanocnn", "layers", "--model", "other.py", "model.name=other").code == 0
    done = script("nanocnn", "layers", "--model", "train.py")
    assert done.code == 2 and "train.py: defines no MODELS" in done.error


def test_both_forms_of_the_command_work_from_any_folder(tmp_path):
    command = Path(sys.executable).with_name("nanocnn")
    forms = [[sys.executable, "-m", "nanocnn"], *([[command]] if command.exists() else [])]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    for form in forms:
        options = {"env": environment, "capture_output": True, "text": True}
        done = subprocess.run([*form, "layers"], cwd=tmp_path, check=False, **options)
        assert done.returncode == 0 and "1,425,139" in done.stdout, done.stderr
