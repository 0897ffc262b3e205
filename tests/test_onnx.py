"""ONNX: the same answers without TensorFlow, and no file that is not the model's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import brightness_run
import numpy as np
import onnx
import pytest
from PIL import Image
from tiny_dataset import HerePool, write_tiny_dataset
from typer.testing import CliRunner

import main
from datasets.patches import PatchConfig, extract_patches
from train.models import MODELS
from train.onnx_export import HASH_KEY, ONNX_FILE, OnnxError, OnnxModel, export_onnx
from train.outputs import Outputs
from train.run import Run, RunError

LABELS = ["uncompressed", "jpeg", "jpeg2000"]
ROOT = Path(__file__).parent.parent


def write_run(folder: Path) -> Run:
    """A run with a small residual network that was never trained."""
    folder.mkdir()
    config = {"dataset": {"patch_size": 32}}
    for name, content in (("config", config), ("labels", LABELS), ("sources", {})):
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "history.csv").write_text("epoch,loss\n1,1.0\n")
    MODELS["residual"]((None, None, 3), len(LABELS), width=4).save(folder / "model.keras")
    return Run.load(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An exported run."""
    run = write_run(tmp_path_factory.mktemp("onnx") / "run")
    assert export_onnx(run) == run.path / ONNX_FILE
    return Run.load(run.path)


def copied(run: Run, folder: Path) -> Path:
    folder.mkdir()
    for path in run.path.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize(("count", "side"), [(1, 32), (130, 32), (3, 47)])
def test_answers_agree_with_keras(run: Run, count: int, side: int) -> None:
    pixels = np.random.default_rng(count).integers(0, 256, (count, side, side, 3), np.uint8)
    assert run.onnx is not None
    assert not any(ONNX_FILE in note for note in run.notes)
    answers = run.outputs(pixels)
    keras_run = Run.load(run.path)
    keras_run.__dict__["_onnx"] = (None, "")
    wanted = keras_run.outputs(pixels)
    for name in Outputs._fields:
        mine, other = getattr(answers, name), getattr(wanted, name)
        assert mine.shape == other.shape
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, other, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(run.predict(pixels), keras_run.predict(pixels), atol=1e-4)
    powers = np.exp(answers.logits - answers.logits.max(axis=1, keepdims=True))
    soft = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(soft, answers.probabilities, atol=1e-5)
    assert run.predict(pixels[:0]).shape == (0, 3)


def test_classify_needs_no_tensorflow(run: Run, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    script = (
        "import sys, main\n"
        "from typer.testing import CliRunner\n"
        f"done = CliRunner().invoke(main.app, ['classify', {str(tmp_path)!r}, '--run', "
        f"{str(run.path)!r}, '--json'])\n"
        "print(done.stdout)\n"
        "heavy = {'tensorflow', 'keras', 'scipy', 'sklearn', 'matplotlib', 'onnx'}\n"
        "heavy &= set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr.splitlines()[-1] == "[]"
    (result,) = json.loads(done.stdout)["results"]
    assert result["label"] in LABELS
    assert result["patches"] == 4


def test_commands_export_calibrate_and_classify(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run").path
    write_tiny_dataset(tmp_path / "dataset")
    extract_patches(tmp_path / "dataset", PatchConfig(32, 8, 0), HerePool())

    def command(*arguments: object) -> str:
        done = CliRunner().invoke(main.app, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert json.loads(command("export-model", folder, "--json"))["bytes"] > 1000
    answer = json.loads(command("calibrate", folder, tmp_path / "dataset", "--json"))
    assert answer["calibration"]["fitted_on"]["split"] == "val"
    assert answer["patch"]["after"]["log_loss"] <= answer["patch"]["before"]["log_loss"] + 0.01
    assert "ECE" in command("calibrate", folder, tmp_path / "dataset", "--images", 2)
    noise = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    Image.fromarray(noise * 0 + 255).save(tmp_path / "white.png")
    files = (tmp_path / "noise.png", tmp_path / "white.png", "--run", folder)
    noisy, white = json.loads(command("classify", *files, "--json"))["results"]
    assert noisy["calibrated"]
    assert abs(noisy["log10_likelihood_ratio"]) <= np.log10(2) + 1e-9
    assert (white["verdict"], white["label"]) == ("not enough evidence", None)
    table = command("classify", *files)
    assert "not enough evidence: all 4 patches are flat" in table
    assert table.splitlines()[0].split()[:3] == ["file", "verdict", "probability"]


def test_a_stale_export_is_not_used(run: Run, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run")
    MODELS["residual"]((None, None, 3), len(LABELS), width=5).save(folder / "model.keras")
    changed = Run.load(folder)
    assert changed.onnx is None
    assert "another model.keras" in changed.notes[0]
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    np.testing.assert_allclose(changed.predict(pixels), changed.model.predict_on_batch(pixels))
    (folder / ONNX_FILE).unlink()
    assert not any(ONNX_FILE in note for note in Run.load(folder).notes)


def _edited(run: Run, folder: Path, edit: str) -> Path:
    path = copied(run, folder) / ONNX_FILE
    model = onnx.load(path)
    if edit == "outside operator":
        model.opset_import.append(onnx.helper.make_opsetid("com.somebody", 1))
        model.graph.node[0].domain = "com.somebody"
    elif edit == "outside weights":
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "labels.json"
    elif edit == "other outputs":
        del model.graph.output[0]
    else:
        path.write_bytes(b"no model")
        return path
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        ("outside operator", "com.somebody"),
        ("outside weights", "weights are in other files"),
        ("other outputs", "its outputs are"),
        ("damage", "cannot be used"),
    ],
)
def test_files_that_are_not_plain_data_are_not_used(
    run: Run, tmp_path: Path, edit: str, problem: str
) -> None:
    path = _edited(run, tmp_path / "run", edit)
    with pytest.raises(OnnxError, match=problem):
        OnnxModel(path, 32)
    loaded = Run.load(path.parent)
    assert loaded.onnx is None
    assert problem in loaded.notes[0]
    assert "Keras is used" in loaded.notes[0]


def test_the_file_names_its_model(run: Run) -> None:
    model = onnx.load(run.path / ONNX_FILE)
    assert {item.key: item.value for item in model.metadata_props} == {HASH_KEY: run.model_sha256}
    assert {node.domain for node in model.graph.node} == {""}
    free = [item.dim_param for item in model.graph.input[0].type.tensor_type.shape.dim]
    assert free == ["patches", "height", "width", ""]


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run.path / "model.keras").write_bytes(b"no model")
    with pytest.raises(RunError, match="cannot be loaded"):
        export_onnx(Run.load(run.path))
    assert not (run.path / ONNX_FILE).exists()


def test_onnxruntime_does_not_report_to_its_maker(tmp_path: Path) -> None:
    """It would leave a session file in the temporary folder, and send what it noted."""
    brightness_run.write_run(tmp_path / "run")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    script = (
        "import sys; from pathlib import Path; from train.run import Run\n"
        "assert Run.load(Path(sys.argv[1])).onnx is not None\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")],
        check=True,
        cwd=ROOT,
        env={**environment, "TMPDIR": str(temporary), "HOME": str(tmp_path)},
    )
    assert list(temporary.iterdir()) == []
