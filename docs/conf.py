"""Configures the documentation: `make docs` writes it to `docs/_build/html`."""

import importlib.util
import os
import pathlib
import sys

import rdljax

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
# For the tutorials, which run in processes and folders of their own.
os.environ["PYTHONPATH"] = str(ROOT)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "programs"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

project = "rdljax"
author = "The rdljax contributors"
version = release = rdljax.__version__

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

# Tutorials are executed when the site is built; the results of those that have not
# changed are kept. An exception in a cell ends the build.
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / ".cache" / "docs")
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 300
nb_execution_in_temp = True  # (What they write does not stay.)
nb_merge_streams = True
# Without PyTorch, which is large, the page about it has no outputs, and says so.
if importlib.util.find_spec("torch") is None:
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
