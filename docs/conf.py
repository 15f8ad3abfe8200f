"""Configures the documentation: `make docs` writes it to `docs/_build/html`."""

import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import sys

from sphinx import errors

ROOT = pathlib.Path(__file__).parents[1]
# (The script `sphinx-build`, other than `python -m sphinx`, does not look here.)
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
# For the tutorials, which run in processes and folders of their own.
os.environ["PYTHONPATH"] = str(ROOT)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "programs"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import rdljax  # noqa: E402

project = "rdljax"
author = "The rdljax contributors"
version = release = rdljax.__version__


def hash_library() -> str:
    """Returns a hash of what a tutorial's results depend on besides its cells."""
    found = hashlib.sha256()
    for folder in ("rdljax", "experiments"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found.update(path.read_bytes())
    for package in ("jax", "flax", "numpy"):
        found.update(importlib.metadata.version(package).encode())
    return found.hexdigest()[:12]


extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "extension",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
# (A pattern for pages that are added later.)
suppress_warnings = ["toc.empty_glob"]

# Tutorials are executed when the site is built. The results of those that have not
# changed are kept, while the library is the same. An exception in a cell ends the
# build.
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / ".cache" / "docs" / hash_library())
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 300
nb_execution_in_temp = True  # (What they write does not stay.)
nb_merge_streams = True
# Without PyTorch, which is large, the page about it has no outputs, and says so.
# With RDLJAX_DOCS_TORCH=1 it must be there.
if importlib.util.find_spec("torch") is None:
    if os.environ.get("RDLJAX_DOCS_TORCH") == "1":
        raise errors.ConfigError("RDLJAX_DOCS_TORCH=1, and PyTorch is not installed")
    nb_execution_excludepatterns = ["tutorials/pytorch.md"]
    tags.add("without_torch")  # noqa: F821  (Sphinx defines it.)
myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 3

# Single backticks are names, which link to their page where they have one.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # Shapes and units stand in the text.
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "rdljax"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
