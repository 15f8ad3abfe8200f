"""Puts one fault after another into a copy of the checkout, to see what the tests find.

    python -m tests.mutants [NAME ...] [--jobs=1] [--out=FILE.json] [--again] [--whole]
        [--minutes=15]

NAME is part of a mutant's name: only mutants with this part in their names are tried. A
mutant is killed if one of its tests fails, if its tests do not end, or if they cannot
import it. FILE.json keeps the results (found.json in this folder has the last results);
a mutant with a result is not tried again. With --again it is tried again, first with
the test that killed it before, which takes seconds rather than minutes. With --whole, a
mutant that its own tests do not kill is tried with all tests. The exit status is 1 if a
mutant survived, 2 if some could not be tried, and 0 if all were killed.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from typing import Any

from tests import mutants

# What all tests may take, in relation to those of one mutant.
LONGER = 8
# Where tests look for data, if they are told nothing, beside the checkout.
DATA = {
    "RDLJAX_DATA": "data/tfds",
    "RDLJAX_KRIEGESKORTE92": "data/kriegeskorte92.npz",
    "RDLJAX_REFERENCE": "reference/nets",
}
WORDS = {"killed": "killed ", "survived": "SURVIVED", "error": "ERROR  "}

Found = dict[str, Any]
running: set[subprocess.Popen] = set()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", help="parts of names: those mutants alone")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument(
        "--out", type=pathlib.Path, help="the JSON file of what is found"
    )
    parser.add_argument(
        "--again", action="store_true", help="try what is in FILE.json once more"
    )
    parser.add_argument("--whole", action="store_true", help="try all tests at the end")
    parser.add_argument(
        "--minutes", type=float, default=15.0, help="what a mutant's tests may take"
    )
    return parser.parse_args(arguments)


def environment() -> dict[str, str]:
    """Returns what the tests of a copy are told, so that they find what is here."""
    told = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    for name, path in DATA.items():
        place = mutants.ROOT.parent / "shared" / path
        if place.exists():
            told.setdefault(name, str(place))
    # (As in tests/conftest.py.)
    cache = mutants.ROOT / ".cache" / f"jaxlib-{metadata.version('jaxlib')}"
    told.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    return told


def copy_of_checkout(scratch: str) -> pathlib.Path:
    """Copies the files of the working tree, less those that git ignores."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(
        command, cwd=mutants.ROOT, check=True, capture_output=True, text=True
    )
    folder = pathlib.Path(tempfile.mkdtemp(dir=scratch)) / mutants.ROOT.name
    for name in listed.stdout.split("\0"):
        if name and (mutants.ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(mutants.ROOT / name, folder / name)
    return folder


def attempt(
    mutant: mutants.Mutant, folder: pathlib.Path, tests: list[str], minutes: float
) -> Found:
    """Runs tests on a mutant.

    Args:
      mutant: The fault.
      folder: A copy of the checkout, which is as before afterwards.
      tests: What pytest is given.
      minutes: What they may take.

    Returns:
      `outcome`: "killed", "survived" or "error"; `by`: the first test that failed, or
      what else happened; `seconds`.
    """
    began = time.monotonic()
    place = folder / mutant.file
    original = place.read_bytes()
    place.write_text(mutant.changed(folder))
    try:
        outcome, by = judged(mutant, *run(folder, tests, minutes))
    finally:
        place.write_bytes(original)
    seconds = round(time.monotonic() - began, 1)
    return {"outcome": outcome, "by": by, "seconds": seconds}


def run(
    folder: pathlib.Path, tests: list[str], minutes: float
) -> tuple[int | None, str]:
    """Runs pytest in a folder until a test fails.

    Args:
      folder: A copy of the checkout.
      tests: What pytest is given.
      minutes: After which it is ended, and all that it started.

    Returns:
      Its exit status, None where it took too long, and what it said.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    with tempfile.TemporaryFile("w+") as said:
        started = subprocess.Popen(
            [*command, *tests],
            cwd=folder,
            env=environment(),
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # So that what tests start ends with them.
        )
        running.add(started)
        try:
            status = started.wait(60 * minutes)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end(started)
            running.discard(started)
        said.seek(0)
        return status, said.read()


def end(started: subprocess.Popen) -> None:
    """Ends tests that still run, and all that they started."""
    if started.poll() is None:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def judged(mutant: mutants.Mutant, status: int | None, said: str) -> tuple[str, str]:
    """Says what pytest's exit status and words mean for a mutant."""
    if status is None:
        return "killed", "timeout"
    if status == 0:
        return "survived", ""
    failed = re.search(r"^(?:FAILED|ERROR) (\S+?::.+?)(?: - |$)", said, re.MULTILINE)
    if status == 1 and failed:
        return "killed", failed[1]
    # (A traceback through the mutated file: it raised when it was imported.)
    if status in (2, 4) and re.search(rf"{re.escape(mutant.file)}:\d+: in ", said):
        return "killed", "import"
    return "error", f"status {status}: {said[-2000:]}"


def tried(
    mutant: mutants.Mutant,
    folder: pathlib.Path,
    asked: argparse.Namespace,
    known: Found,
) -> Found:
    """Tries a mutant with its own tests and, where asked for, with all.

    Args:
      mutant: The fault.
      folder: A copy of the checkout.
      asked: The command line.
      known: What was found before, or nothing.

    Returns:
      The entry of the JSON file.
    """
    found = {} if asked.again else dict(known)
    if asked.again and "::" in known.get("by", ""):
        found = attempt(mutant, folder, [known["by"]], asked.minutes)
    if not found or (asked.again and found["outcome"] != "killed"):
        found = attempt(mutant, folder, mutant.tests, asked.minutes)
    if asked.whole and found["outcome"] == "survived":
        seconds = found["seconds"]
        found = attempt(mutant, folder, ["tests"], LONGER * asked.minutes)
        found["whole"] = True
        found["seconds"] = round(found["seconds"] + seconds, 1)
    killed = found["outcome"] == "killed"
    return {"name": mutant.name, "killed": killed, **found}


def is_done(known: Found, whole: bool) -> bool:
    """Says whether what was found before is enough."""
    if whole and known.get("outcome") == "survived":
        return "whole" in known
    return known.get("outcome") in ("killed", "survived")


def line_of(found: Found) -> str:
    """Returns what is printed of a mutant."""
    word, by = WORDS[found["outcome"]], found["by"]
    return f"{word} {found['seconds']:6.1f} s  {found['name']}" + (f"  {by}" * bool(by))


def main(arguments: list[str] | None = None) -> int:
    """Tries the mutants; returns the exit status."""
    asked = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    known: dict[str, Found] = {}
    if asked.out is not None and asked.out.exists():
        known = {found["name"]: found for found in json.loads(asked.out.read_text())}
    chosen = [
        mutant
        for mutant in mutants.load()
        if not asked.names or any(name in mutant.name for name in asked.names)
    ]
    left = [
        mutant
        for mutant in chosen
        if asked.again or not is_done(known.get(mutant.name, {}), asked.whole)
    ]
    free: queue.SimpleQueue[pathlib.Path] = queue.SimpleQueue()

    def one(mutant: mutants.Mutant) -> Found:
        folder = free.get()
        before = known.get(mutant.name, {})
        survived = before.get("outcome") == "survived"
        try:
            return tried(
                mutant, folder, asked, before if survived or asked.again else {}
            )
        finally:
            free.put(folder)

    with (
        tempfile.TemporaryDirectory() as scratch,
        concurrent.futures.ThreadPoolExecutor(asked.jobs) as pool,
    ):
        for _ in range(asked.jobs):
            free.put(copy_of_checkout(scratch))
        started = [pool.submit(one, mutant) for mutant in left]
        try:
            for done in concurrent.futures.as_completed(started):
                found = done.result()
                known[found["name"]] = found
                print(line_of(found), flush=True)
                if asked.out is not None:
                    text = json.dumps(list(known.values()), indent=1)
                    draft = asked.out.with_suffix(".partial")
                    draft.write_text(text + "\n")
                    draft.replace(asked.out)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for tests in list(running):
                end(tests)
            raise
    outcomes = [known[mutant.name]["outcome"] for mutant in chosen]
    print(f"{outcomes.count('killed')} of {len(outcomes)} killed")
    if "error" in outcomes:
        print(f"{outcomes.count('error')} could not be tried")
    return 1 if "survived" in outcomes else 2 if "error" in outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
