"""All benchmarks by one command: the limits, the JSON file and the page."""

import html.parser
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import __main__ as together
from benchmarks import kernels, limits, measure, page, runner, verdicts

ROOT = pathlib.Path(__file__).parents[1]


class Page(html.parser.HTMLParser):
    """Balanced tags, their text, and what they refer to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.references = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.references += [x for k, x in attributes if k in ("href", "src")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def read(folder):
    """The JSON file, and the page when it was found whole and self-contained."""
    text = (folder / "index.html").read_text()
    found = Page(text)
    assert all(x.startswith("data:image/png;base64,") for x in found.references)
    assert "http" not in text and "url(" not in text and "@import" not in text
    return json.loads((folder / "benchmarks.json").read_text()), found


def measured(name, error=None, **facts):
    """A case of two contenders and a goal."""

    def ask(part):
        if error is not None:
            return {"error": error}
        return {
            "samples_ms": {"ours": [1.0, 1.1], "port": [4.0, 4.4]},
            "repeats": {"ours": 3, "port": 1},
            "facts": {"ours": facts},
            "differences": {},
            "others": 0.1,
            "device": "cpu: cpu",
            "goals": [measure.Goal("P1", "port", 2, 5)._asdict()],
            "memory": False,
            "error": None,
        }

    return {"case": name, **verdicts.case_result(ask)}


class Runs:
    """Stands for the benchmarks' processes: what each writes, and its status."""

    def __init__(self, **answers):
        self.answers, self.called = answers, []

    def __call__(self, name, path, options):
        self.called.append(name)
        speed = measured("gemm", flop=2e9)
        status, *cases = self.answers.get(name.replace("-", "_"), (0, speed))
        if cases:
            head = runner.head("benchmarks.some", runner.Options())
            left = ["late"] if status == 130 else []
            found = {**head, "rounds": options.rounds, "cases": cases, "left": left}
            path.write_text(json.dumps(found))
        return status


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The command in a folder, with given processes."""

    def run(processes, *arguments):
        monkeypatch.setattr(together, "call", processes)
        return together.main([*arguments, f"--out={tmp_path}"])

    return run


class TestTogether:
    @pytest.mark.slow
    def test_a_case_and_the_limits_in_earnest(self, tmp_path, monkeypatch):
        """What comes first is measured here, and the limits once more by processes."""
        modules = {x.__name__: x for x in (kernels, limits)}

        def ask(module, options, name, part):
            case = modules[module].build(name, options)
            return runner._times_or_error(case, options.rounds)

        monkeypatch.setattr(runner, "_ask", ask)
        cases = ["correlation-1000-512"]
        before, path = tmp_path / "limits-before.json", tmp_path / "kernels.json"
        assert limits.main(["--rounds=1", f"--out={before}"]) == 0
        assert kernels.main([*cases, "--rounds=1", f"--out={path}"]) == 0
        call = [sys.executable, "-m", "benchmarks", "kernels", "--rounds=1", "--resume"]
        call += [f"--out={tmp_path}"]
        done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "kernels: kept" in done.stderr
        assert "limits-before: kept" in done.stderr
        self.look(tmp_path, cases)

    @pytest.mark.slow
    def test_two_cases_and_the_limits_by_processes(self, tmp_path):
        def command(module, *arguments):
            call = [sys.executable, "-m", module, "--rounds=1", *arguments]
            return subprocess.run(call, cwd=ROOT, capture_output=True, text=True)

        cases = ["correlation-1000-512", "bootstrap-92"]
        path = tmp_path / "kernels.json"
        done = command("benchmarks.kernels", *cases, f"--out={path}")
        assert done.returncode == 0, done.stderr
        done = command("benchmarks", "kernels", "--resume", f"--out={tmp_path}")
        assert done.returncode == 0, done.stderr
        assert "kernels: kept" in done.stderr
        self.look(tmp_path, cases)

    def look(self, folder, cases):
        found, shown = read(folder)
        assert {"command", "date", "machine", "versions", "rounds"} <= set(found)
        assert list(found["limits"]) == ["gemm-float32, GFLOP/s", "copy-float32, GB/s"]
        assert all(x > 0 for sides in found["limits"].values() for x in sides.values())
        assert [x["case"] for x in found["benchmarks"]["kernels"]["cases"]] == cases
        assert {*cases, "P10", "share of gemm-float32, GFLOP/s"} <= set(shown.texts)

    def test_everything_is_on_the_page(self, run, tmp_path):
        processes = Runs(kernels=(0, measured("a"), measured("b <i>", flop=1e9)))
        assert run(processes, "kernels", "steps") == 0
        assert processes.called == ["limits-before", "kernels", "steps", "limits-after"]
        found, shown = read(tmp_path)
        assert found["benchmarks"]["kernels"]["cases"][1]["case"] == "b <i>"
        assert len(shown.references) == 2
        # 2 GFLOP in 1 ms, the best sample.
        assert found["limits"]["gemm-ours, GFLOP/s"]["after"] == pytest.approx(2e3)
        assert {"a", "b <i>", "floor met", "4.2 (4x)"} <= set(shown.texts)

    def test_what_failed_is_named(self, run, tmp_path, capsys):
        failing = Runs(kernels=(1, measured("good"), measured("bad", "they < differ")))
        assert run(failing, "kernels", "objectives") == 1
        found, shown = read(tmp_path)
        assert found["problems"] == ["kernels: bad failed: they < differ"]
        assert found["problems"][0] in shown.texts and "good" in shown.texts
        assert found["problems"][0] in capsys.readouterr().err

    def test_a_benchmark_that_measured_nothing(self, run, tmp_path):
        assert run(Runs(steps=(2,)), "steps") == 1
        found, shown = read(tmp_path)
        assert found["problems"] == ["steps: ended with status 2"]
        assert "No case was measured." in shown.texts

    def test_an_interrupt_leaves_what_is_finished(self, run, tmp_path):
        processes = Runs(kernels=(130, measured("done")))
        assert run(processes, "kernels", "steps") == 130
        assert processes.called == ["limits-before", "kernels"]
        found, shown = read(tmp_path)
        assert found["problems"] == [
            "kernels: interrupted",
            "kernels: not measured: late",
            "not run: steps, limits-after",
        ]
        assert "done" in shown.texts

    def test_what_is_whole_is_not_run_again(self, run, tmp_path):
        assert run(Runs(kernels=(130, measured("a"))), "steps", "kernels") == 130
        again = Runs()
        assert run(again, "steps", "kernels", "--resume") == 0
        assert again.called == ["kernels", "limits-after"]
        once_more = Runs()
        assert run(once_more, "steps", "kernels", "--resume") == 0
        assert once_more.called == []
        (tmp_path / "steps.json").write_text("{")
        assert run(once_more, "steps", "kernels", "--resume") == 0
        assert once_more.called == ["steps", "limits-after"]
        other = Runs()
        assert run(other, "kernels", "--resume", "--rounds=2") == 0
        assert other.called == ["limits-before", "kernels", "limits-after"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["kernel"], "no benchmark 'kernel'; did you mean 'kernels'?"),
            (["limits"], "no benchmark 'limits'"),
            (["--round=2"], "--rounds"),
            (["kernels", "--rounds=0"], "1 round or more"),
            (["kernels", "devices", "--batch=4"], "kernels and devices have no batch"),
            (["steps", "--device=cpu"], "steps have no device"),
            (["kernels", "--device=tpu"], "no device tpu: cpu or gpu"),
            (["nets", "--repdistiller=none"], "none is no checkout of RepDistiller"),
        ],
    )
    def test_wrong_calls_are_answered_in_words(self, arguments, message, run, capsys):
        processes = Runs()
        assert run(processes, *arguments) == 2
        assert message in capsys.readouterr().err and processes.called == []

    def test_a_benchmark_that_is_not_there(self, run, monkeypatch, capsys):
        monkeypatch.setattr(together, "BENCHMARKS", ("kernels", "ghosts"))
        assert run(Runs()) == 2
        assert "there is no benchmarks/ghosts.py" in capsys.readouterr().err

    def test_a_folder_that_cannot_be(self, tmp_path, capsys):
        (tmp_path / "file").touch()
        assert together.main(["kernels", f"--out={tmp_path / 'file'}"]) == 2
        assert "no folder" in capsys.readouterr().err

    def test_each_takes_its_own_settings(self, monkeypatch, tmp_path):
        commands = []

        class Process:
            def __init__(self, command, process_group, env):
                commands.append(command[2:])
                assert env["JAX_PLATFORMS"] == "cpu"

            def wait(self):
                return 0

        monkeypatch.setattr(subprocess, "Popen", Process)
        options = together.Options(rounds=2, batch=4, device="cpu")
        for name in ("steps", "limits-after"):
            together.call(name, tmp_path / "x.json", options)
        out = f"--out={tmp_path / 'x.json'}"
        assert commands == [
            ["benchmarks.steps", out, "--rounds=2", "--batch=4"],
            ["benchmarks.limits", out, "--rounds=2", "--device=cpu"],
        ]


class TestLimits:
    def test_the_work_is_what_is_counted(self):
        product = limits.gemm(8, "float32")
        assert product.read(product.call())[0].shape == (8, 8)
        assert product.facts == {"flop": 1024}

    def test_bfloat16_is_left_out_on_a_cpu(self):
        options = runner.DeviceOptions()
        assert set(limits.build("gemm", options).contenders) == {"float32"}
        assert set(limits.build("copy", options).contenders) == {"float32"}

    def test_speeds(self):
        entry = {"median_ms": 2.0, "best_ms": 1.0, "bytes": 4e6, "images": 3}
        assert limits.speeds(entry) == {"GB/s": 2.0}
        cases = [{"case": "copy", "contenders": {"float32": entry}}]
        assert limits.best_speeds({"cases": cases}) == {"copy-float32, GB/s": 4.0}


def test_a_picture_of_a_lone_contender():
    case = measured("alone")
    del case["contenders"]["port"]
    alone, both = page.picture([case]), page.picture([measured("both")])
    width = [int.from_bytes(png[16:20]) for png in (alone, both)]
    np.testing.assert_allclose(width[1], 2 * width[0], rtol=0.01)
