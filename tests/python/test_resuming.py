"""`gelora run` killed at random moments of its extraction and of its training: the same command ends with the same files."""

import json
import os
import random
import signal
import subprocess
import time

import pytest
from conftest import GELORA, ROOT, TINY, write_table

COMPARED = ["plan.json", "dimensions.csv", "adapter_config.json", "adapter/adapter_config.json",
            "adapter/adapter_model.safetensors", "merged/model.onnx", "merged/model.safetensors"]

CONFIG = """
[model]
path = "{model}"
[data]
train = "{train}"
dev = "{dev}"
text = "sentence"
label = "label"
[plan]
batch_tokens = 16
[train]
epochs = 12
batch_size = 8
learning_rate = 5e-3
dropout = 0.1
save_every = 7
linear = "torch"
[output]
folder = "out"
[device]
inference = "cpu"
training = "cpu"
threads = 1
"""


class Place:
    """A folder with a configuration; both places of the test see the same model and tables."""

    def __init__(self, folder, **files):
        folder.mkdir()
        self.out = folder / "out"
        self.command = [str(GELORA), "run", str(folder / "config.toml"), "--quiet"]
        (folder / "config.toml").write_text(CONFIG.format(**files))

    def start(self):
        return subprocess.Popen(self.command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self):
        start = time.monotonic()
        child = self.start()
        _, errors = child.communicate(timeout=600)
        assert child.returncode == 0, errors
        return time.monotonic() - start

    def stage(self):
        """The stage that is being worked at."""
        try:
            stages = json.loads((self.out / "run.json").read_text())["stages"]
        except FileNotFoundError:
            return None
        return next((name for name, stage in stages.items() if not stage["done"]), None)

    def seconds(self, stage):
        return json.loads((self.out / "run.json").read_text())["stages"][stage]["seconds"]

    def bytes(self):
        return {name: (self.out / name).read_bytes() for name in COMPARED}


def kill_in(place, stage, after):
    """Starts a run and kills it so long after it began with a stage; whether it was still at it."""
    child = place.start()
    while child.poll() is None and place.stage() != stage:
        time.sleep(0.002)
    time.sleep(after)
    there = child.poll() is None and place.stage() == stage
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    return there


@pytest.mark.parametrize("stage", ["plan", "train"])
def test_a_killed_run_ends_with_the_same_plan_and_adapter(tmp_path, stage):
    files = {"model": TINY, "train": write_table(tmp_path / "train.tsv", 1500, 3), "dev": write_table(tmp_path / "dev.tsv", 60, 4)}
    whole, killed = Place(tmp_path / "whole", **files), Place(tmp_path / "killed", **files)
    whole.finish()
    moments, kills, seconds = random.Random(), [], whole.seconds(stage)
    for _ in range(20):
        after = moments.uniform(0, 0.18 * seconds)
        if kill_in(killed, stage, after):
            kills.append(round(after, 2))
        if len(kills) == 5 or killed.stage() != stage:
            break
    killed.finish()
    print(f"killed in the stage {stage} ({seconds:.1f} s) after {kills} s")
    expected = whole.bytes()
    different = [name for name, found in killed.bytes().items() if found != expected[name]]
    assert not different, f"killed after {kills}"
    assert len(kills) == 5
