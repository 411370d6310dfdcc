"""The sample data set comes out of its script; the GPU check runs through on a CPU, with nothing but torch and transformers."""

import os
import shutil
import subprocess
import sys

from conftest import GELORA, ROOT, read_table


def test_sample_data_come_out_of_their_script_and_do_not_overlap(tmp_path):
    shutil.copy(ROOT / "examples/data/make_agreement.py", tmp_path)
    subprocess.run([sys.executable, tmp_path / "make_agreement.py"], check=True, capture_output=True)
    texts = {}
    for name, rows in (("train", 4000), ("dev", 500)):
        made, kept = tmp_path / f"agreement_{name}.tsv", ROOT / f"examples/data/agreement_{name}.tsv"
        assert made.read_bytes() == kept.read_bytes()
        texts[name], labels = read_table(kept)
        assert len(set(texts[name])) == rows and sum(labels) == rows // 2
    assert not set(texts["train"]) & set(texts["dev"])


def test_no_room_uses_one_above_it_and_the_picture_is_that_of_the_code(tmp_path):
    kept = (ROOT / "docs/architecture.svg").read_bytes()
    shutil.copytree(ROOT / "src", tmp_path / "src")
    (tmp_path / "docs").mkdir()
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts/architecture_picture.py", tmp_path / "scripts")
    subprocess.run([sys.executable, script], check=True, capture_output=True)
    assert (tmp_path / "docs/architecture.svg").read_bytes() == kept, "run scripts/architecture_picture.py"
    (tmp_path / "src/onnx/upward.rs").write_text("use crate::cli::run;\n")
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 1 and "onnx" in done.stderr + done.stdout


def test_gpu_check_runs_without_a_gpu_and_without_the_onnx_package(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "found = PathFinder.find_spec\n"
        "absent = ('onnx', 'onnxscript', 'onnxruntime', 'peft')\n"
        "PathFinder.find_spec = lambda name, *rest: None if name.split('.')[0] in absent else found(name, *rest)\n"
    )
    command = ["scripts/gpu_check.sh", "--cpu", "--gelora", GELORA, "--python", sys.executable, "--out", tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("  ok\n") == 4 and "WRONG" not in done.stdout
    assert "CPUExecutionProvider" in done.stdout
    assert "times" in done.stdout


def test_gpu_check_says_what_is_missing(tmp_path):
    for arguments, words in ((["--gelora", tmp_path / "nowhere"], "--gelora"), (["--quantum"], "--quantum"), (["--out"], "--out")):
        done = subprocess.run(["scripts/gpu_check.sh", *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
