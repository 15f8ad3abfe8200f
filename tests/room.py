"""The tests of the files that one has changed: `python -m tests.room [FILE ...]`.

Without a file: those that differ from the last commit. What begins with `-` goes to
pytest.
"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
# By file or folder, the tests that meet its faults first; the longest entry counts.
TESTS = {
    "rdljax/__init__.py": "main package",
    "rdljax/_blocks.py": "forms mmd",
    "rdljax/_checks.py": "objectives rdm",
    "rdljax/_extras.py": "imports",
    "rdljax/files.py": "files",
    "rdljax/_geometry.py": "geometry",
    "rdljax/_indices.py": "negatives terms",
    "rdljax/_layerwise.py": "objectives",
    "rdljax/_types.py": "imports",
    "rdljax/errors.py": "rdm_io negatives",
    "rdljax/activations": "activations files",
    "rdljax/_objectives": "objectives devices",
    "rdljax/_pruned.py": "initializers training",
    "rdljax/_pytrees.py": "mmd rdm",
    "rdljax/checkpoints.py": "checkpoints",
    "rdljax/rdm/io.py": "rdm_io",
    "rdljax/_resampling.py": "statistics inference",
    "rdljax/inference": "inference",
    "rdljax/mmd": "mmd",
    "rdljax/validate.py": "validate",
    "rdljax/terms/negatives.py": "negatives",
    "rdljax/nets": "nets",
    "rdljax/nets/_initializers.py": "initializers nets",
    "rdljax/nets/_weights.py": "from_torch",
    "rdljax/nets/_sites.py": "capture",
    "rdljax/nets/capture.py": "capture",
    "rdljax/nets/from_keras.py": "from_torch",
    "rdljax/nets/from_torch.py": "from_torch",
    "rdljax/objectives.py": "objectives",
    "rdljax/plots": "plots",
    "rdljax/rdm": "rdm",
    "rdljax/rdm/_crossnobis.py": "rdm rsatoolbox",
    "rdljax/rdm/_larger.py": "forms",
    "rdljax/rdm/_moments.py": "forms",
    "rdljax/rdm/forms.py": "forms",
    "rdljax/rdm/subjects.py": "rdm_io",
    "rdljax/statistics.py": "statistics",
    "rdljax/teachers.py": "terms training",
    "rdljax/terms": "terms devices",
    "rdljax/training": "training drivers",
    # (The site's configuration is tried by `make docs` alone.)
    "docs": "docs main",
    "docs/brain.md": "docs main readme",
    "docs/reference": "docs readme",
    "docs/results": "docs readme",
    "docs/scaling.md": "docs main benchmarks",
    "docs/tutorials": "docs tutorials",
    "experiments": "experiments",
    "experiments/README.md": "docs",
    "experiments/__main__.py": "main",
    "experiments/analyses": "probe",
    "experiments/analyses/detection": "detection",
    "experiments/analyses/logit_correlations.py": "correlations",
    "experiments/analyses/report": "report report_brain",
    "experiments/brain": "brain",
    "experiments/brain/markdown.py": "report_brain brain",
    "experiments/command.py": "main experiments crash",
    "experiments/config": "main experiments",
    "experiments/correlations.py": "correlations",
    "experiments/display.py": "display",
    "experiments/data": "data",
    "experiments/data/colour.py": "modalities",
    "experiments/data/decoding.py": "records data",
    "experiments/data/downloads.py": "prepare",
    "experiments/data/originals.py": "prepare",
    "experiments/data/preparing.py": "prepare",
    "experiments/data/records.py": "records",
    "experiments/detection.py": "detection",
    "experiments/export_images.py": "export_images",
    "experiments/export_torch.py": "weights",
    "experiments/import_torch.py": "weights",
    "experiments/locks.py": "experiments",
    "experiments/methods.py": "methods",
    "experiments/prepare.py": "prepare",
    "experiments/probe.py": "probe",
    "experiments/report.py": "report",
    "experiments/results": "experiments",
    "experiments/results/aggregate.py": "tables report",
    "experiments/results/columns.py": "tables",
    "experiments/results/markdown.py": "tables report",
    "experiments/results/plots.py": "experiments tables report",
    "experiments/results/table.py": "tables",
    "experiments/results/verdict.py": "verdict",
    "experiments/table.py": "tables",
    "experiments/tables": "tables",
    "experiments/training": "methods programs",
    "experiments/training/estimate.py": "tables",
    "experiments/training/events.py": "crash",
    "experiments/training/interrupts.py": "experiments crash",
    "experiments/training/loop.py": "experiments crash",
    "experiments/training/profile.py": "profile",
    "experiments/training/programs.py": "programs",
    "experiments/training/table_runs.py": "tables",
    "experiments/weights": "weights",
    "benchmarks": "benchmarks",
    "benchmarks/__main__.py": "benchmarks_together",
    "benchmarks/compiled.py": "compiled",
    "benchmarks/hlo.py": "compiled",
    "benchmarks/limits.py": "benchmarks_together",
    "benchmarks/page.py": "benchmarks_together",
    "tests/broken.py": "crash",
    "tests/process.py": "training",
    "tests/quick.py": "correlations methods",
    "tests/mutants": "mutants",
    "tests/room.py": "room",
    "CHANGELOG.md": "docs",
    "CONTRIBUTING.md": "docs",
    "README.md": "docs readme package",
    "CITATION.cff": "package",
    "pyproject.toml": "package",
}
ALWAYS = "imports"  # Takes a second.


def tests_of(path: str) -> list[str]:
    """Returns the test files of one changed file, none for what has no tests.

    Args:
      path: Of the file, from the root of the repository.
    """
    if path.startswith("tests/test_"):
        return [path]
    entries = [e for e in TESTS if path == e or path.startswith(f"{e}/")]
    names = TESTS[max(entries, key=len)].split() if entries else []
    return [f"tests/test_{name}.py" for name in names]


def changed() -> list[str]:
    """Returns the files that differ from the last commit, new ones included."""
    found = []
    for call in (
        ["git", "diff", "--name-only", "--diff-filter=d", "HEAD"],
        ["git", "ls-files", "--others", "--exclude-standard"],
    ):
        done = subprocess.run(
            call, cwd=ROOT, check=True, capture_output=True, text=True
        )
        found += done.stdout.splitlines()
    return found


def main(arguments: list[str]) -> int:
    """Runs the tests of the files, and returns pytest's exit status."""
    files = [x for x in arguments if not x.startswith("-")] or changed()
    options = [x for x in arguments if x.startswith("-")]
    tests = sorted({test for file in files for test in tests_of(file)})
    tests.append(f"tests/test_{ALWAYS}.py")
    print(f"{len(files)} changed files: {' '.join(tests)}", flush=True)
    if len(tests) > 2 and not any(option.startswith("-n") for option in options):
        options += ["-nauto", "--dist=loadfile", "--no-loadscope-reorder"]
    call = [sys.executable, "-m", "pytest", "-q", "-x", *options, *tests]
    return subprocess.run(call, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
