"""How long each test and each file takes: `pytest -p tests.times`.

CPU seconds, those of child processes included: what else the machine does changes them
little. Beside them the programs that XLA compiled, and the seconds of it.
"""

import collections
import os

import pytest

COMPILED = "/jax/core/compile/backend_compile_duration"
LONGEST = 20
compiled = []
rows = []


def pytest_sessionstart():
    """Listens to the compiler (after conftest has set what jax reads)."""
    from jax import monitoring

    def listen(event, seconds, **_):
        if event == COMPILED:
            compiled.append(seconds)

    monitoring.register_event_duration_secs_listener(listen)


def cpu_seconds() -> float:
    """Returns the CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Measures a test with its fixtures; the report of its end has the figures."""
    item.started = cpu_seconds(), len(compiled)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "teardown":
        seconds, programs = item.started
        new = compiled[programs:]
        figures = (cpu_seconds() - seconds, len(new), sum(new))
        report.user_properties.append(("times", figures))
    return report


def pytest_runtest_logreport(report):
    """Collects the figures, here and from the workers of pytest-xdist."""
    rows.extend(
        (*value, report.nodeid)
        for name, value in report.user_properties
        if name == "times" and report.when == "teardown"
    )


def pytest_terminal_summary(terminalreporter):
    """Prints a Markdown table of the longest tests, and one of the files."""
    write = terminalreporter.write_line
    files = collections.Counter()
    for seconds, programs, compiling, name in rows:
        file = files.setdefault(name.split("::")[0], collections.Counter())
        file.update(
            {"tests": 1, "s": seconds, "programs": programs, "compiling": compiling}
        )
    head = "| CPU s | programs | s of compiling | {} |\n|---:|---:|---:|---|"
    write("\n" + head.format("the longest tests"))
    for seconds, programs, compiling, name in sorted(rows, reverse=True)[:LONGEST]:
        write(f"| {seconds:.1f} | {programs} | {compiling:.1f} | `{name}` |")
    write("\n" + head.format("files (tests)"))
    for name, file in sorted(files.items(), key=lambda pair: -pair[1]["s"]):
        write(
            f"| {file['s']:.0f} | {file['programs']} | {file['compiling']:.0f} | "
            f"`{name}` ({file['tests']}) |"
        )
    total = sum(row[0] for row in rows)
    write(f"| {total:.0f} | {sum(row[1] for row in rows)} | "
          f"{sum(row[2] for row in rows):.0f} | all ({len(rows)}) |")  # fmt: skip
