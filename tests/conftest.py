"""What every test runs under.

Eight forced CPU devices, so that one machine tests what is mapped across devices.
Before jax 0.12 such devices wait for each other forever when XLA has fewer threads
than they need; PJRT_NPROC gives it enough.

Most of the suite's time is XLA's. So programs are compiled by its older, quicker
emitter where it has one, with few of LLVM's optimisations (a program that draws the
weights of ResNet-8 takes 1 s instead of 9 to 26; steps run nearly as fast), those of
`SMALL` with none, and are kept in a folder that the workers share and that a later run
finds again (`JAX_COMPILATION_CACHE_DIR` names another one, or none where it is empty).
The environment variable `RDLJAX_OPTIMIZED=1` asks for the compiler as users have it.

All this is set before jax is imported, and holds for the processes that tests start.
"""

import gc
import itertools
import os
import pathlib
from importlib import metadata

ROOT = pathlib.Path(__file__).parents[1]
JAXLIB = metadata.version("jaxlib")
OPTIMIZED = os.environ.get("RDLJAX_OPTIMIZED") == "1"
FLAGS = ["--xla_force_host_platform_device_count=8"]
if not OPTIMIZED:
    FLAGS.append("--xla_cpu_parallel_codegen_split_count=1")
    FLAGS.append("--xla_backend_optimization_level=1")
    if JAXLIB.startswith("0.10."):  # Later versions have one emitter only.
        FLAGS.append("--xla_cpu_use_fusion_emitters=false")
# The files whose programs compile longer than they run. (A step of a small
# convolutional net takes 0.1 CPU seconds, and 2.4 without optimisations.)
SMALL = {
    *("test_objectives", "test_rdm", "test_forms", "test_mmd", "test_geometry"),
    *("test_negatives", "test_statistics", "test_rsatoolbox", "test_terms"),
    *("test_devices", "test_drivers", "test_training"),
    *("test_nets", "test_capture", "test_from_torch"),
    *("test_brain", "test_benchmarks", "test_programs"),
}
# The files that take longest, which begin first: a worker that takes one last keeps the
# other waiting. (`make times` has the seconds.)
LONGEST = (
    *("test_training", "test_objectives", "test_forms", "test_experiments"),
    *("test_programs", "test_brain", "test_devices", "test_terms"),
    *("test_nets", "test_methods", "test_rdm", "test_drivers"),
    *("test_tables", "test_benchmarks", "test_records", "test_detection"),
    *("test_from_torch", "test_data", "test_probe", "test_readme"),
)
os.environ["XLA_FLAGS"] = " ".join(FLAGS)
os.environ["PJRT_NPROC"] = "32"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MPLBACKEND"] = "agg"
# (XLA's own key has its version; a folder for each can be removed.)
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / f"jaxlib-{JAXLIB}")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"  # (Nobody reads the programs.)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# Linux lets a process map 65,530 pieces of memory, every compiled program takes some,
# and XLA crashes where one more is refused. The suite compiles that many.
MAPS = pathlib.Path("/proc/self/maps")
MANY = 20_000
finished = itertools.count(1)
# Tracing allocates much and leaves few cycles: Python need not look for them as often.
COLLECT = (50_000, 20, 20)


def pytest_collection_modifyitems(items):
    """Lets the files that take longest begin."""

    def place(item):
        name = item.path.stem
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)


def pytest_collection_finish():
    """Lets the garbage collector pass over the tests and modules, and seldom begin."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT)


def pytest_runtest_teardown():
    """Forgets compiled programs when there are many; looks every 20 tests."""
    if next(finished) % 20 or not MAPS.exists():
        return
    if MAPS.read_bytes().count(b"\n") > MANY:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True, scope="module")
def _compiler(request):
    """Compiles the programs of `SMALL` without optimisations, all others with them."""
    small = request.module.__name__.rpartition(".")[2] in SMALL
    name = "jax_disable_most_optimizations"
    before, now = jax.config.read(name), small and not OPTIMIZED
    jax.config.update(name, now)
    yield
    jax.config.update(name, before)


@pytest.fixture
def optimized():
    """Compiles the test's programs as those of files that are not in `SMALL`."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, False)
    yield
    jax.config.update(name, before)


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
