"""Configures the documentation: `make docs` writes it to `docs/_build/html`."""

import os
import pathlib

import rdljax

ROOT = pathlib.Path(__file__).parents[1]
# For the tutorials, which run in processes and folders of their own.
os.environ["PYTHONPATH"] = str(ROOT)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "programs"))

project = "rdljax"
author = "The rdljax contributors"
version = release = rdljax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]

# Tutorials are executed when the site is built; the results of those that have not
# changed are kept. An exception in a cell ends the build.
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / ".cache" / "docs")
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 300
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # Shapes and units stand in the text.
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "rdljax"
