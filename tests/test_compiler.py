"""The tests of values once more, with programs compiled as users have them."""

import os
import subprocess
import sys

import pytest

from tests import conftest


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", sorted(conftest.SMALL))
def test_the_tests_of_programs_that_are_not_optimised(name):
    call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*call, "--timeout=1500", f"tests/{name}.py"],
        cwd=conftest.ROOT,
        env=os.environ | {"RDLJAX_OPTIMIZED": "1", "JAX_COMPILATION_CACHE_DIR": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
