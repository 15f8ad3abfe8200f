"""After a crash: what was broken off ends with the same bytes as the unbroken run."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from rdljax import checkpoints

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 6
KILLED = -9


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts a training in a folder; answers the exit status and what it says."""
    cache = tmp_path_factory.mktemp("compiled")

    def run(folder, how="end", number=0, devices=2):
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "PYTHONPATH": str(ROOT),
            # Only the first of them compiles.
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = [sys.executable, ROOT / "tests" / "broken.py", folder, how]
        done = subprocess.run(
            [*command, str(number)], env=environment, capture_output=True, text=True
        )
        assert done.returncode in (0, 1, KILLED), done.stderr
        return done.returncode, done.stdout.strip()

    return run


@pytest.fixture(scope="module")
def unbroken(start, tmp_path_factory):
    status, said = start(tmp_path_factory.mktemp("unbroken") / "run")
    assert status == 0
    result = json.loads(said)
    assert result["leaves"] > 20 and result["changes"] > 100
    return result


def ends_alike(start, folder, unbroken):
    status, said = start(folder)
    assert status == 0
    assert json.loads(said.splitlines()[-1])["hash"] == unbroken["hash"]


def newest(folder):
    return checkpoints.latest(folder / "checkpoint")


class TestKilled:
    def kill(self, start, folder, unbroken, kills, seed):
        """Kills it between two epochs, then at seeded changes and steps."""
        assert start(folder, "step", STEPS // 2)[0] == KILLED
        assert newest(folder) == STEPS // 2
        rng = np.random.default_rng(seed)
        for kill in range(kills - 1):
            left = STEPS - (newest(folder) or 0)
            if kill % 2 and left:
                status, _ = start(folder, "step", int(rng.integers(left)))
            else:
                # Within the next two of the checkpoints that are still to be written.
                each = unbroken["changes"] // (STEPS + 1)
                number = int(rng.integers(1, each * (2 if left > 1 else 1)))
                status, _ = start(folder, "event", number)
            assert status == KILLED
            assert not list(folder.glob("*.partial"))
        ends_alike(start, folder, unbroken)

    def test_three_times(self, start, unbroken, tmp_path):
        self.kill(start, tmp_path / "run", unbroken, kills=3, seed=0)

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", [1, 2])
    def test_ten_times(self, start, unbroken, tmp_path, seed):
        self.kill(start, tmp_path / "run", unbroken, kills=10, seed=seed)

    @pytest.mark.slow
    @pytest.mark.timeout(1200)
    def test_at_every_change_that_a_checkpoint_makes(self, start, unbroken, tmp_path):
        # The second checkpoint, where there is one to be kept.
        each = unbroken["changes"] // (STEPS + 1)
        for number in range(1, each + 2):
            folder = tmp_path / str(number)
            assert start(folder, "step", 1)[0] == KILLED
            assert newest(folder) == 1
            assert start(folder, "event", number)[0] == KILLED
            assert newest(folder) in (1, 2)
            if number % 10 == 0:
                ends_alike(start, folder, unbroken)


def test_a_full_disk(start, unbroken, tmp_path):
    folder = tmp_path / "run"
    assert start(folder, "step", 2)[0] == KILLED
    kept = newest(folder)
    status, said = start(folder, "disk", 2000)
    assert status == 1 and "could not be written" in said
    assert newest(folder) == kept
    ends_alike(start, folder, unbroken)


def flip(folder):
    file = max((folder / "state").rglob("*"), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(folder):
    file = max((folder / "state").rglob("*"), key=lambda f: f.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def remove_the_manifest(folder):
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [flip, truncate, remove_the_manifest])
def test_a_damaged_checkpoint(start, unbroken, tmp_path, damage):
    folder = tmp_path / "run"
    assert start(folder, "step", 3)[0] == KILLED
    step = newest(folder)
    assert step == 3
    damage(folder / "checkpoint" / str(step))
    status, said = start(folder)
    assert status == 0
    message, result = said.splitlines()
    assert "is damaged" in message and message.endswith("; step 2 is used")
    assert json.loads(result)["hash"] == unbroken["hash"]


def test_other_devices_go_on_with_it(start, unbroken, tmp_path):
    folder = tmp_path / "run"
    assert start(folder, "step", 2)[0] == KILLED
    status, said = start(folder, devices=4)
    assert status == 0
    # (Sums are rounded otherwise; that they agree is tested in test_devices.py.)
    assert json.loads(said)["hash"] != unbroken["hash"]
    found = checkpoints.about(folder / "checkpoint")
    assert found["devices"] == 4 and len(found["history"]) == 2
