"""What every test runs under.

Eight forced CPU devices, so that one machine tests what is mapped across devices.
Before jax 0.12 such devices wait for each other forever when XLA has fewer threads
than they need; PJRT_NPROC gives it enough. Both are set before jax is imported.
"""

import itertools
import os
import pathlib

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["PJRT_NPROC"] = "32"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MPLBACKEND"] = "agg"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# Linux lets a process map 65,530 pieces of memory, every compiled program takes some,
# and XLA crashes where one more is refused. The suite compiles that many.
MAPS = pathlib.Path("/proc/self/maps")
MANY = 20_000
finished = itertools.count(1)


def pytest_runtest_teardown():
    """Forgets compiled programs when there are many; looks every 20 tests."""
    if next(finished) % 20 or not MAPS.exists():
        return
    if MAPS.read_bytes().count(b"\n") > MANY:
        jax.clear_caches()


@pytest.fixture
def float64():
    """Runs the test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def brain_file() -> pathlib.Path:
    """Real stimuli and their RDMs, of Kriegeskorte et al. 2008.

    $RDLJAX_KRIEGESKORTE92, or ../shared/data/kriegeskorte92.npz.
    """
    name = "RDLJAX_KRIEGESKORTE92"
    default = pathlib.Path(__file__).parents[2] / "shared" / "data"
    file = pathlib.Path(os.environ.get(name, default / "kriegeskorte92.npz"))
    if not file.is_file():
        pytest.skip(f"no measured RDMs at {file}; ${name} names another file")
    return file


@pytest.fixture(scope="session")
def tfds_dir() -> pathlib.Path:
    """The folder with real TFDS data: $RDLJAX_DATA, or ../shared/data/tfds."""
    default = pathlib.Path(__file__).parents[2] / "shared" / "data" / "tfds"
    folder = pathlib.Path(os.environ.get("RDLJAX_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; $RDLJAX_DATA names another folder")
    return folder
