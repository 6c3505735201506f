"""nanocnn export: files that say what the checkpoint says, without any of this package."""

import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from conftest import SCRIPTS, build_model, train
from PIL import Image

import nanocnn
from model import MODELS
from nanocnn.config.load import load_config
from nanocnn.deploy import agreement, export
from nanocnn.deploy.card import text
from nanocnn.deploy.export import session_of
from nanocnn.deploy.portable import Portable, pooled_head
from nanocnn.deploy.quantize import left_whole, quantized
from nanocnn.evaluation.evaluate import AverageFlips
from nanocnn.images.decode import Form
from nanocnn.networks.model_file import load_networks
from nanocnn.run.restore import restore
from nanocnn.system.errors import UserError

CLASSES = ["<b>bold", "a_b*c"]  # which Markdown must not take for its own
OPTIONS = [
    "data.image_size=[24,20]",
    "data.resize=crop",
    "data.crop_fraction=0.9",
    "data.interpolation=bicubic",
    "data.average_flips=true",
    "data.augment={}",
    "data.channels=3",
    "data.cache=false",
    "data.validation=20",
    "data.test=0",
    "model={name: small}",
    "train.epochs=1",
    "train.batch_size=16",
    "precision=fp32",
]
MODEL = """
from torch import nn

def small(image_shape, num_classes):
    block = [nn.Conv2d(image_shape[0], 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    more = [nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*block, *more, nn.Dropout(0.1), nn.Linear(16, num_classes))

MODELS = {"small": small}
"""
SIZES = [(24, 20), (1, 30), (30, 1), (31, 90), (200, 40), (64, 64)]


class Exported(NamedTuple):
    run: object  # its folder
    networks: object
    folder: object  # of the files
    out: str
    error: str

    def classifier(self):
        return nanocnn.load(self.run, device="cpu", networks=self.networks)

    def bytes_of(self, name):
        return (self.folder / name).read_bytes()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run on pictures of several sizes, and its files a.onnx and a.pt2."""
    folder = tmp_path_factory.mktemp("exported")
    generator = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(40):
            size = generator.integers(20, 60, 2)
            pixels = generator.integers(0, 256, (*size, 3)) // (1 + label * (number % 3))
            path = folder / "pictures" / name / f"{number}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    (folder / "own.py").write_text(MODEL)
    networks = load_networks(folder / "own.py")
    config = load_config(
        "folder.yaml", [f"data.root={folder / 'pictures'}", *OPTIONS], networks=networks
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "small", networks.models["small"])
        run = train(config, folder / "run")
    files = ["--onnx", str(folder / "a.onnx"), "--torch", str(folder / "a.pt2")]
    files += ["--model", str(folder / "own.py")]
    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        SCRIPTS["nanocnn"](["export", "--ckpt", str(run), *files])
    return Exported(run, networks, folder, out.getvalue(), error.getvalue())


def pictures():
    generator = np.random.default_rng(1)
    return [generator.integers(0, 256, (2, *size, 3), dtype=np.uint8) for size in SIZES]


def outputs(exported, images):
    return session_of(exported.bytes_of("a.onnx")).run(None, {"images": images})


def test_a_file_says_what_predict_says_of_pictures_of_any_size(exported):
    classifier = exported.classifier()
    for images in pictures():
        wanted = classifier.probabilities(list(images))
        assert np.abs(outputs(exported, images)[0] - wanted).max() < 1e-4, images.shape


def test_the_map_is_where_the_probabilities_come_from(exported):
    for images in pictures():
        probabilities, maps = outputs(exported, images)
        logits = torch.from_numpy(maps).mean((2, 3))
        assert maps.shape == (2, 2, 6, 5)
        assert np.allclose(logits.softmax(1), probabilities, atol=1e-5)


def test_nothing_is_printed_but_how_far_the_files_agree(exported):
    assert re.fullmatch(r"networks: .*own\.py\n", exported.error)
    agrees = r"top-1 equal on 20 of 20, greatest difference of a probability \d\.\de-0\d"
    lines = exported.out.splitlines()[-4:]
    for line, name in zip(lines, ("a.onnx", "a.pt2"), strict=False):
        assert re.fullmatch(rf"{name}: against the checkpoint, val images: {agrees}", line)
    assert re.fullmatch(r".*a\.pt2 \(\d\.\d\d MB\), .*a\.pt2\.md", lines[3])


def fresh(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_onnx_runtime_reads_the_file_without_a_warning(exported):
    code = (
        "import json, sys, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1])\n"
        "print(session.get_modelmeta().custom_metadata_map['nanocnn'])\n"
        "print([(each.name, each.type, each.shape) for each in session.get_inputs()])\n"
    )
    facts, inputs = fresh(code, exported.folder / "a.onnx").splitlines()
    assert inputs == "[('images', 'tensor(uint8)', ['N', 'H', 'W', 3])]"
    facts = json.loads(facts)
    assert facts["classes"] == CLASSES and facts["image_shape"] == [3, 24, 20]
    assert (facts["resize"], facts["crop_fraction"], facts["map"]) == ("crop", 0.9, True)


def test_only_the_order_of_passes_that_is_taken_is_computed(exported):
    graph = onnx.load_from_string(exported.bytes_of("a.onnx")).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("If") == 1 and not {"MatMul", "GatherND"} & {*kinds}


@pytest.mark.parametrize("name", ["a.onnx", "a.pt2"])
def test_the_code_of_the_card_says_what_predict_says_without_this_package(
    name, exported, monkeypatch
):
    page = (exported.folder / f"{name}.md").read_text()
    assert r"\<b\>bold, a\_b\*c" in page
    picture = Image.fromarray(np.concatenate([pictures()[3][0], pictures()[3][1][..., :1]], 2))
    tags = Image.Exif()
    tags[274] = 6  # to be turned
    monkeypatch.chdir(exported.folder)
    picture.save("picture.png", exif=tags)
    code = re.search(r"^~~~python\n(.*?)^~~~", page, re.MULTILINE | re.DOTALL)[1]
    label, chance, is_here = fresh(f"{code}import sys\nprint('nanocnn' in sys.modules)").split()
    [wanted] = exported.classifier().predict(["picture.png"], invert="never")
    assert label == wanted.label and abs(float(chance) - wanted.probability) < 1e-4
    assert is_here == "False"


@pytest.mark.parametrize(
    "weights, whole",
    [
        ([216, 300_000, 200_000, 1_000], {"0", "3"}),  # the first, and the last
        ([216, 200, 300, 1_000_000], {"0", "1", "2"}),  # the last has most of them
        ([600, 300_000, 300_000], {"0"}),
        ([25_000, 2_000_000, 50_000], set()),
        ([7_840], set()),
    ],
)
def test_small_layers_at_both_ends_stay_out_of_int8(weights, whole):
    nodes = [
        onnx.helper.make_node("Gemm", ["x", f"w{place}"], ["y"], name=str(place))
        for place in range(len(weights))
    ]
    sizes = [onnx.TensorProto(name=f"w{place}", dims=[size]) for place, size in enumerate(weights)]
    graph = onnx.helper.make_graph(nodes, "net", [], [], sizes)
    assert left_whole(graph, nodes) == whole


def test_int8_is_the_networks_alone(exported):
    proto = onnx.load_from_string(exported.bytes_of("a.onnx"))
    restored = restore(exported.run, networks=exported.networks)
    form = exported.classifier().form
    small = quantized(proto, agreement.examples_of(restored, None, form))
    weights = {each.name: each for each in small.graph.initializer}
    convolutions = [node for node in small.graph.node if node.op_type == "Conv"]
    makers = {node.output[0]: node for node in small.graph.node}
    kinds = [makers.get(node.input[1]) for node in convolutions]
    of_map = [node for node, maker in zip(convolutions, kinds, strict=True) if maker is None]
    for node in convolutions:
        if node in of_map:
            continue
        stored, scale, _ = makers[node.input[1]].input
        assert weights[stored].data_type == onnx.TensorProto.INT8
        assert list(weights[scale].dims) == [weights[stored].dims[0]]
    assert len(convolutions) == 6 and len(of_map) == 2  # of the image and of its mirror image
    images = pictures()[0]
    found = session_of(small.SerializeToString()).run(None, {"images": images})[0]
    assert np.abs(found - outputs(exported, images)[0]).max() < 0.1


def test_a_file_that_says_something_else_is_not_written(exported, script, monkeypatch, tmp_path):
    monkeypatch.setattr(export, "program_of", lambda model: None)
    monkeypatch.setattr(export, "program_bytes", lambda *_: b"")
    unsure = np.full((1, 2), 0.5)
    monkeypatch.setattr(export, "by_torch", lambda _: lambda given: unsure.repeat(len(given), 0))
    options = ["--torch", tmp_path / "b.pt2", "--model", exported.folder / "own.py"]
    done = script("nanocnn", "export", "--ckpt", exported.run, *options)
    assert done.code == 2
    assert re.search(r"b\.pt2: disagrees with the checkpoint on \d+ of 20 images", done.error)
    assert not list(tmp_path.iterdir())


def test_how_far_two_answers_agree():
    wanted = np.array([[0.9, 0.1], [0.5001, 0.4999], [0.2, 0.8]])
    assert agreement.compare(wanted + 1e-5, wanted)[:3] == (3, 3, 0)
    tied = np.array([[0.9, 0.1], [0.4999, 0.5001], [0.2, 0.8]])
    assert agreement.compare(tied, wanted)[:3] == (3, 2, 0)
    other = np.array([[0.9, 0.1], [0.5001, 0.4999], [0.3, np.nan]])
    assert agreement.compare(other, wanted)[2:] == (1, np.inf)


def test_without_its_images_a_file_is_tried_on_random_ones(exported, capsys):
    restored = restore(exported.run, networks=exported.networks)
    data = restored.config.data.model_copy(update={"root": "gone"})
    moved = restored._replace(config=restored.config.model_copy(update={"data": data}))
    found = agreement.examples_of(moved, None, Form((3, 24, 20)))
    assert found.name == "random" and len(found.images) == 32
    assert "gone: no such folder; tried on 32 random images" in capsys.readouterr().err
    with pytest.raises(UserError, match="elsewhere: no such folder"):
        agreement.examples_of(moved, "elsewhere", Form((3, 24, 20)))


@pytest.mark.parametrize(
    "options, said",
    [
        ([], "nothing to write; type --onnx FILE"),
        (["--torch", "a.pt2", "--quantize", "int8"], "cannot act without --onnx"),
        (["--onnx", "RUN/best.pt"], "is a checkpoint"),
        (["--onnx", "none/a.onnx"], "a folder that exists"),
        (["--onnx", "a.onnx", "--torch", "a.onnx"], "would be written twice"),
        (["--torch", "a", "--onnx", "a.md"], "would be written twice"),
    ],
)
def test_what_cannot_be_written_is_refused(options, said, script, digits_run):
    options = [option.replace("RUN", str(digits_run)) for option in options]
    done = script("nanocnn", "export", "--ckpt", digits_run, *options)
    assert done.code == 2 and said in done.error


def test_one_logistic_output_has_a_map_for_each_of_two_classes():
    torch.manual_seed(0)
    network = build_model("resnet18", (1, 12, 12), 2, width=0.125, logistic=True).eval()
    head = pooled_head(network, (1, 12, 12))
    model = Portable(network, Form((1, 12, 12)), head, 0.5).eval()
    model.flips = True
    images = torch.randint(0, 256, (3, 12, 12, 1), dtype=torch.uint8)
    probabilities, maps = model(images)
    wanted = AverageFlips(network)(images.permute(0, 3, 1, 2).float()) / 0.5
    assert torch.allclose(probabilities, wanted.softmax(1), atol=1e-5)
    assert torch.allclose(maps.mean((2, 3)), wanted, atol=1e-4)
    mirrored = model(images.flip(2))[1]
    assert torch.allclose(mirrored.flip(3), maps, atol=1e-4)


def test_a_network_with_hidden_layers_has_no_map():
    assert pooled_head(build_model("lenet", (1, 28, 28), 10), (1, 28, 28)) is None


def test_names_are_no_markup():
    assert text("a|b`c`\n[x](y)") == r"a\|b\`c\`\\n\[x\](y)"
