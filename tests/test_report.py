"""The page about a run: its numbers, its form, and what it says where files are bad."""

import base64
import collections
import functools
import html.parser
import json
import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from experiments import data, report, run
from experiments.analyses.report import charts, encoding, numbers, page
from experiments.results import aggregate, markdown, plots
from rdljax import nets

LAYERS = nets.build("mlp", 10).layers
# 70 images: one step an epoch. (MLPs compile quickly.)
TINY = ["--train_per_class=7", "--epochs=3", "--teacher_epochs=2", "--seeds=2"]
TINY += ["--teacher=mlp", "--student=mlp", "--layers", "pooled", "logits"]
METHODS = ["plain", "kd"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
VOID = {"meta", "input", "br", "link", "img"}
# A text that breaks what does not escape it.
BAD = """</script><script>throw "x"</script><b title='&amp;'>"""


class Page(html.parser.HTMLParser):
    """What a test looks at in a page; unclosed or crossed tags are an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.tags = [], [], [], []
        self.texts = collections.defaultdict(list)
        self.tables, self.labels, self.script = [], [], ""
        self.without_caption = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes[k] for k in ("href", "src") if k in attributes]
        if tag not in VOID:
            self.open.append((tag, attributes))
        if tag == "table":
            self.tables.append([])
            if "figure" not in {tag for tag, _ in self.open}:
                self.without_caption.append(attributes)
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"{self.open} ended by {tag}"
        self.open.pop()

    def handle_data(self, text):
        tag, attributes = self.open[-1] if self.open else ("", {})
        self.texts[tag].append(text)
        if attributes.get("id") == "numbers":
            self.script += text
        if tag == "text":
            charts = [a for _, a in self.tags if a.get("class") == "chart"]
            self.labels.append(({"chart": len(charts) - 1, **attributes}, text))
        within = {tag for tag, _ in self.open}
        if within & {"td", "th"} and self.tables:
            # (What stands under it in the cell comes after a bar.)
            self.tables[-1][-1][-1] += f"|{text}" if tag == "small" else text

    @property
    def numbers(self):
        """What the script is given."""
        return json.loads(self.script)

    def paths(self, name):
        """The points of a method's lines, a chart after the other."""
        for place, (tag, attributes) in enumerate(self.tags):
            if tag == "g" and attributes.get("data-name") == name:
                (line,) = (
                    a["d"]
                    for t, a in self.tags[place : place + 3]
                    if t == "path" and a["class"] == "line"
                )
                points = re.sub("[ML]", " ", line).split()
                yield np.array(points, float).reshape(-1, 2)


# Of a summary: one net teaches.
TAUGHT = {"teacher": {}, "config": {"ensemble": 1}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a run, without what no page reads."""
    folder = tmp_path_factory.mktemp("report") / "run"
    call = ["mnist_rdl", *TINY, "--methods", *METHODS, f"--out={folder}"]
    with pytest.MonkeyPatch.context() as patch:
        # (No page shows them.)
        patch.setattr(plots, "pictures", lambda *_: [])
        assert run.main(call) == 0
    for weights in [*folder.glob("*/weights"), *folder.glob("*/checkpoint")]:
        shutil.rmtree(weights)
    shutil.copytree(folder, folder.parent / "recorded")
    # (Most tests have RDMs of known geometry, or none.)
    for rdms in folder.glob("*/rdms"):
        shutil.rmtree(rdms)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(finished, tmp_path / "run")


def edit(file, change):
    """Changes what a JSON file holds."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def read(*arguments):
    """The page that a command writes, parsed."""
    assert report.main([str(a) for a in arguments]) == 0
    (out,) = [a[6:] for a in arguments[1:]] or [arguments[0] / "report.html"]
    return Page(pathlib.Path(out).read_text())


def net(folder, method, seed=0):
    """The result of a net."""
    own = method if method == "teacher" else f"{method}-seed{seed}"
    return json.loads((folder / own / "result.json").read_text())


def record(folder, epochs, layers=LAYERS, stimuli=100):
    """Writes RDMs over epochs of points that gather at the places of ten classes."""
    rng = np.random.default_rng(len(str(folder)))
    places = np.repeat(rng.normal(size=(10, 5)), stimuli // 10, axis=0)
    (folder / "rdms").mkdir()
    found = {}
    for epoch in epochs:
        share = epoch / max(epochs)
        found[epoch] = {}
        for layer in layers:
            points = share * places + rng.normal(size=places.shape) * (1.1 - share)
            found[epoch][layer] = distance.pdist(points, "cosine").astype(np.float16)
        np.savez(folder / "rdms" / f"epoch-{epoch:04d}.npz", **found[epoch])
    return found


def fabricate(folder, methods, seeds, epochs, classes=10, images=60):
    """Writes the results of a run that never was, and its summary, which it answers."""
    rng = np.random.default_rng(0)
    truth, results = rng.integers(classes, size=images), []
    truth[:classes] = np.arange(classes)
    students = [(method, seed) for method in methods for seed in range(seeds)]
    for name, seed in [("teacher", 0), *students]:
        wrong = rng.random(images) < 0.2
        # (Every image is one that some net is right about.)
        wrong &= name != "teacher"
        wrong[0] |= name == "teacher"
        predicted = np.where(wrong, rng.integers(classes, size=images), truth)
        curve = 50 * np.exp(-np.arange(epochs) / epochs) + rng.random(epochs)
        result = {
            "method": name,
            "seed": seed,
            "seconds": 1.5,
            "test_error": float(100 * np.mean(predicted != truth)),
            "predicted": predicted.tolist(),
            "correct": (predicted == truth).astype(int).tolist(),
            "history": [{"validation_error": v, "task": v / 50} for v in curve],
        }
        if name != "teacher":
            agreement = {"pearson": rng.random(), "spearman": rng.random()}
            result["agreement"] = {"logits": agreement}
        own = folder / (name if name == "teacher" else f"{name}-seed{seed}")
        own.mkdir(parents=True)
        (own / "result.json").write_text(json.dumps(result))
        results.append(result)
    config = {
        "name": "invented",
        "data": "nowhere",
        "data_dir": None,
        "train_per_class": None,
        "teacher": "mnist_cnn",
        "student": "mnist_cnn_small",
        "methods": [*methods],
        "layers": ["logits"],
        "distance": "Cosine",
        "comparison": "Pearson",
        "epochs": epochs,
        "teacher_epochs": epochs,
        "seeds": seeds,
        "batch": 64,
        "ensemble": 1,
        **dict.fromkeys(("learning_rate", "momentum", "weight_decay"), 0.1),
    }
    summary = {
        "config": config,
        "data": "Images of nothing.",
        "versions": {"python": "3"},
        "device": "1 x cpu",
        **aggregate.summarise(results, truth),
    }
    (folder / "result.json").write_text(json.dumps(summary))
    return summary


def percentile(distances, place):
    """In percent, by its definition: a half of those that are equal count."""
    own = distances[place]
    return (
        100
        * (np.sum(distances < own) + (np.sum(distances == own) + 1) / 2)
        / len(distances)
    )


def check_form(found, ids=()):
    """Well-formed, of one file, and each link within the page leads somewhere."""
    assert len(set(found.ids)) == len(found.ids) and {*ids} <= {*found.ids}
    inner = [link for link in found.links if link.startswith("#")]
    assert {link[1:] for link in inner} <= {*found.ids}
    sections = [a["id"] for tag, a in found.tags if tag == "section"]
    assert [link[1:] for link in inner] == sections
    assert not [link for link in found.links if "//" in link]
    assert not {"link", "img", "iframe", "base"} & {tag for tag, _ in found.tags}
    pictures = [a for tag, a in found.tags if tag in ("svg", "canvas")]
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in pictures)
    assert found.without_caption == []
    assert [tag for tag, _ in found.tags].count("h1") == 1
    style = "".join(found.texts["style"] + found.texts["script"])
    assert not re.search(r"https?:|@import|url\(|fetch\(|import\(", style)


class TestForm:
    def test_of_a_run(self, finished, tmp_path):
        found = read(finished, f"--out={tmp_path / 'page.html'}")
        ids = ("protocol", "methods", "curves", "rdms", "similarity", "confusion")
        check_form(found, ids)
        assert found.texts["title"][0] == "mnist_rdl, digits"
        text = (tmp_path / "page.html").read_text()
        assert "https://" not in text and "http://" not in text
        assert len(text) < 1_000_000

    def test_controls_have_labels(self, finished, tmp_path):
        found = read(finished, f"--out={tmp_path / 'page.html'}")
        depth = []
        for tag in ("select", "input"):
            text = (tmp_path / "page.html").read_text()
            for place in [m.start() for m in re.finditer(f"<{tag}", text)]:
                before = text[:place]
                depth.append(before.count("<label") - before.count("</label>"))
        assert len(depth) >= 7 and set(depth) == {1}
        charts = [a for tag, a in found.tags if a.get("class") == "chart"]
        assert len(charts) == 2
        assert all(a["tabindex"] == "0" and a["aria-label"] for a in charts)

    def test_texts_are_escaped(self, folder):
        method = BAD.replace("/", "")
        for own in folder.glob("kd-seed*"):
            own.rename(folder / own.name.replace("kd", method))

        def change(summary):
            summary["methods"][method] = summary["methods"].pop("kd")
            for test in summary["mcnemar"]:
                test["method"] = method
            summary["config"] |= {"name": BAD, "student": BAD}
            summary |= {"data": BAD, "versions": {BAD: BAD}, "device": BAD}

        edit(folder / "result.json", change)
        record(folder / "plain-seed0", [1], [BAD])
        found = read(folder)
        check_form(found)
        assert list(found.numbers["rdms"]["plain"]["layers"]) == [BAD]
        assert [tag for tag, _ in found.tags if tag in ("b", "script")] == [
            "script"
        ] * 2
        assert found.texts["h1"] == [f"{BAD}, digits"]
        assert method in [row[0] for row in found.tables[0]]
        assert method in found.numbers["similarity"]["methods"]
        assert method in [a.get("data-name") for _, a in found.tags]


def luminance(colour):
    """As WCAG 2 defines it, of "#rgb" or "#rrggbb"."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * x for x in colour[1:])
    parts = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(*colours):
    """The ratio of WCAG 2, from 1 to 21."""
    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_colours_have_enough_contrast(dark):
    """4.5 for texts, 3 for lines (WCAG 2, level AA)."""
    colours = {f"c{i}": colour for i, colour in enumerate(plots.COLOURS)}
    style = (page.HERE / "page.css").read_text()
    blocks = re.findall(r":root {(.*?)}", style, re.DOTALL)
    for block in blocks[: 1 + dark]:
        colours |= dict(re.findall(r"--(\w+): (#\w+)", block))
    for back in ("back", "panel"):
        for text in ("text", "muted", "link", "good", "bad"):
            assert contrast(colours[text], colours[back]) >= 4.5
    for place in range(len(plots.COLOURS)):
        assert contrast(colours[f"c{place}"], colours["back"]) >= 3


class TestNumbers:
    def test_of_the_methods(self, finished, tmp_path):
        rows = {
            row[0]: row for row in read(finished, f"--out={tmp_path / 'p'}").tables[0]
        }
        truth = data.load("digits").test.label
        errors = {}
        for method in METHODS:
            predicted = [net(finished, method, seed)["predicted"] for seed in range(2)]
            errors[method] = 100 * np.mean(np.array(predicted) != truth, axis=1)
            mean, std = errors[method].mean(), errors[method].std(ddof=1)
            assert rows[method][1] == f"{mean:.2f} ± {std:.2f}"
        error = 100 * np.mean(np.array(net(finished, "teacher")["predicted"]) != truth)
        assert rows["teacher"][1] == f"{error:.2f}"
        each = errors["kd"] - errors["plain"]
        interval = stats.t.interval(0.95, 1, each.mean(), stats.sem(each))
        expected = "{:+.2f} [{:+.2f}, {:+.2f}]".format(each.mean(), *interval)
        assert rows["kd"][2] == expected and rows["plain"][2] == "–"
        seconds = np.array([net(finished, "kd", seed)["seconds"] for seed in range(2)])
        assert rows["kd"][-1] == f"{seconds.mean():.1f} ± {seconds.std(ddof=1):.1f}"

    def test_of_mcnemar(self, finished, tmp_path):
        found = read(finished, f"--out={tmp_path / 'page.html'}")
        rows, holm = found.tables[1][1:], []
        for seed, row in enumerate(rows):
            own, plain = (net(finished, m, seed)["correct"] for m in ("kd", "plain"))
            lost = sum(p and not o for o, p in zip(own, plain, strict=True))
            won = sum(o and not p for o, p in zip(own, plain, strict=True))
            assert row[:4] == ["kd", str(seed), str(lost), str(won)]
            holm.append((float(row[5]), won > lost))
        (cell,) = (row[3] for row in found.tables[0] if row[0] == "kd")
        better, worse = (
            sum(p < 0.05 and won == way for p, won in holm) for way in (True, False)
        )
        words = [f"better in {better}"] * (better > 0) + [f"worse in {worse}"] * (
            worse > 0
        )
        assert len(rows) == 2 and cell == f"{', '.join(words) or 'none'} of 2"

    def test_of_the_learning_curves(self, finished, tmp_path):
        found = read(finished, f"--out={tmp_path / 'page.html'}")
        keys = ("validation_error", "task")
        for chart, key in enumerate(keys):
            panel = found.numbers["curves"][chart]
            series = {line["name"]: line for line in panel["series"]}
            assert list(series) == ["teacher", *METHODS]
            for method in METHODS:
                for epoch in range(3):
                    own = [
                        net(finished, method, seed)["history"][epoch][key]
                        for seed in range(2)
                    ]
                    expected = {"mean": sum(own) / 2, "low": min(own), "high": max(own)}
                    for kind, value in expected.items():
                        there = series[method][kind][epoch]
                        assert there == pytest.approx(value, rel=5.1e-4)
            assert len(series["teacher"]["mean"]) == 2

    def test_lines_are_drawn_on_a_logarithmic_axis(self, finished, tmp_path):
        found = read(finished, f"--out={tmp_path / 'page.html'}")
        for chart, panel in enumerate(found.numbers["curves"]):
            x, y, values = [], [], []
            for line in panel["series"]:
                points = list(found.paths(line["name"]))[chart]
                assert len(points) == len(line["mean"])
                x += list(points[:, 0])
                y += list(points[:, 1])
                values += line["mean"]
            slope, offset = np.polyfit(np.log(values), y, 1)
            assert slope < 0
            np.testing.assert_allclose(slope * np.log(values) + offset, y, atol=0.2)
            assert sorted(set(x)) == [48, 280, 512]
            # What is written beside the axis stands at its height.
            beside = [
                (float(text), float(a["y"]) - 4)
                for a, text in found.labels
                if a["text-anchor"] == "end" and a["chart"] == chart and text != "epoch"
            ]
            assert len(beside) >= 3
            for value, height in beside:
                assert slope * np.log(value) + offset == pytest.approx(height, abs=0.3)

    def test_of_the_confusion_matrices(self, finished, tmp_path):
        found = read(finished, f"--out={tmp_path / 'page.html'}").numbers["confusion"]
        truth = data.load("digits").test.label
        for method in ("teacher", *METHODS):
            seeds = range(1 if method == "teacher" else 2)
            expected = np.zeros((10, 10))
            for seed in seeds:
                predicted = net(finished, method, seed)["predicted"]
                for own, other in zip(truth, predicted, strict=True):
                    expected[own, other] += 1 / len(seeds)
            np.testing.assert_allclose(found["nets"][method], expected, rtol=5.1e-4)
        assert found["images"] == [int(np.sum(truth == c)) for c in range(10)]

    def test_of_the_similarity_of_layers(self, finished, tmp_path):
        found = read(finished, f"--out={tmp_path / 'page.html'}").numbers["similarity"]
        assert found["rows"] == [*LAYERS]
        assert found["columns"] == [*LAYERS]
        teacher = np.load(finished / "teacher" / "rdms.npz")
        correlate = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}
        for method in METHODS:
            own = [
                np.load(finished / f"{method}-seed{i}" / "rdms.npz") for i in range(2)
            ]
            for kind, function in correlate.items():
                expected = [
                    [
                        np.mean([function(s[a], teacher[b]).statistic for s in own])
                        for b in found["columns"]
                    ]
                    for a in found["rows"]
                ]
                there = found["methods"][method][kind]
                np.testing.assert_allclose(there, expected, rtol=5.1e-4)

    def test_what_is_constant_correlates_with_nothing(self):
        rng = np.random.default_rng(0)
        student = {"a": rng.random(10), "dead": np.zeros(10)}
        found = numbers.correlations(student, {"b": rng.random(10)})
        for kind in ("pearson", "spearman"):
            assert np.isfinite(found[kind][0, 0]) and np.isnan(found[kind][1, 0])
        assert encoding.round_numbers(found["pearson"])[1] == [None]


class TestRdms:
    @staticmethod
    def decoded(text):
        return np.frombuffer(base64.b64decode(text), np.uint8)

    def test_are_the_final_ones_where_none_were_recorded(self, finished, tmp_path):
        found = read(finished, f"--out={tmp_path / 'page.html'}").numbers
        assert list(found["rdms"]) == ["teacher", *METHODS] and found["classes"] == 10
        for name, own in found["rdms"].items():
            folder = name if name == "teacher" else f"{name}-seed0"
            stored = np.load(finished / folder / "rdms.npz")
            assert own["epochs"] == [None] and set(own["layers"]) == set(stored)
            for layer, (text,) in own["layers"].items():
                values = self.decoded(text) / 2.54
                assert len(values) == 200 * 199 / 2
                for place in (0, 7, 12_345, 19_899):
                    expected = percentile(stored[layer], place)
                    assert values[place] == pytest.approx(expected, abs=0.2)

    def test_are_shown_by_epoch_and_in_depth_order(self, folder):
        recorded = record(folder / "kd-seed0", [1, 2, 4, 16, 10_000])
        record(folder / "teacher", [1, 2])
        found = read(folder).numbers["rdms"]
        assert found["kd"]["epochs"] == [1, 2, 4, 16, 10_000]
        assert found["teacher"]["epochs"] == [1, 2]
        assert found["plain"]["epochs"] == [None]
        assert list(found["kd"]["layers"]) == [*LAYERS]
        assert list(LAYERS) != sorted(LAYERS)
        for layer in LAYERS:
            for epoch, text in zip(recorded, found["kd"]["layers"][layer], strict=True):
                values = self.decoded(text) / 2.54
                assert len(values) == 100 * 99 / 2
                for place in (0, 99, 4_949):
                    expected = percentile(recorded[epoch][layer], place)
                    assert values[place] == pytest.approx(expected, abs=0.2)

    def test_are_those_that_a_run_recorded(self, finished, tmp_path):
        source = finished.parent / "recorded"
        found = read(source, f"--out={tmp_path / 'page.html'}").numbers["rdms"]
        for name, own in found.items():
            folder = name if name == "teacher" else f"{name}-seed0"
            epochs = len(net(source, name)["history"])
            powers = {2**i for i in range(20) if 2**i <= epochs}
            assert own["epochs"] == sorted(powers | {epochs})
            for epoch, place in zip(own["epochs"], range(100), strict=False):
                file = source / folder / "rdms" / f"epoch-{epoch:04d}.npz"
                stored = np.load(file)
                assert {*own["layers"]} == {*stored}
                for layer, texts in own["layers"].items():
                    values = self.decoded(texts[place]) / 2.54
                    ranks = stats.rankdata(stored[layer].astype(float))
                    want = 100 * (ranks - ranks.min()) / np.ptp(ranks)
                    assert len(values) == len(want) == 4950
                    assert np.corrcoef(values, want)[0, 1] > 0.999

    def test_layers_that_no_net_names_come_last(self, folder):
        record(folder / "kd-seed0", [1], ("zebra", *sorted(LAYERS), "adder"))
        found = read(folder).numbers["rdms"]
        assert list(found["kd"]["layers"]) == [*LAYERS, "zebra", "adder"]

    def test_of_many_stimuli_some_are_shown(self):
        points = np.random.default_rng(0).normal(size=(401, 3))
        values = self.decoded(encoding.percentiles(distance.pdist(points)))
        expected = distance.pdist(points[::3])
        assert len(values) == len(expected) == 134 * 133 / 2
        assert values[5] / 2.54 == pytest.approx(percentile(expected, 5), abs=0.2)

    def test_equal_and_missing_distances(self):
        values = self.decoded(encoding.percentiles(np.array([1.0, 1.0, 9.0])))
        np.testing.assert_array_equal(values, [127, 127, 254])
        # A missing one has a byte of its own, and does not count for the others.
        values = self.decoded(encoding.percentiles(np.array([2.0, np.nan, 1])))
        np.testing.assert_array_equal(values, [254, encoding.MISSING, 127])
        values = self.decoded(encoding.percentiles(np.full(3, np.nan)))
        np.testing.assert_array_equal(values, [encoding.MISSING] * 3)

    def test_are_left_out_where_no_net_has_any(self, folder):
        for file in folder.glob("*/rdms.npz"):
            file.unlink()
        found = read(folder)
        check_form(found, ["rdms", "confusion"])
        assert "similarity" not in found.ids
        assert any("the nets have no RDMs" in text for text in found.texts["p"])


class TestClasses:
    """True classes follow from predictions, else from the data, else are unknown."""

    def test_follow_from_predictions(self, tmp_path):
        fabricate(tmp_path / "run", ["plain", "kd"], seeds=2, epochs=2)
        runs = numbers.results(tmp_path / "run", TAUGHT | {"methods": {}})
        runs["kd"] = [net(tmp_path / "run", "kd", i) for i in range(2)]
        truth, unknown = numbers.true_classes(runs, {})
        assert unknown == ""
        for own in (runs["teacher"][0], *runs["kd"]):
            right = np.array(own["predicted"]) == truth
            np.testing.assert_array_equal(right, own["correct"])
        assert read(tmp_path / "run").numbers["confusion"]["images"] == [
            int(np.sum(truth == c)) for c in range(10)
        ]

    def test_follow_from_the_data(self, folder):
        truth = data.load("digits").test.label
        for file in folder.glob("*/result.json"):

            def change(result):
                result["predicted"][5] = int(truth[5] + 1) % 10
                result["correct"][5] = 0

            edit(file, change)
        found = read(folder).numbers["confusion"]
        assert found["images"] == [int(np.sum(truth == c)) for c in range(10)]
        wrong = int(truth[5] + 1) % 10
        assert found["nets"]["teacher"][truth[5]][wrong] >= 1

    def test_are_unknown_where_the_data_are_absent_or_others(self, folder):
        truth = data.load("digits").test.label

        def change(result):
            # (By these data it would be right.)
            result["predicted"][5], result["correct"][5] = int(truth[5]), 0

        for file in folder.glob("*/result.json"):
            edit(file, change)
        text = " ".join(read(folder).texts["p"])
        assert "the data set 'digits' there has other test images" in text
        edit(folder / "result.json", lambda s: s["config"].update(data="cifar10"))
        found = read(folder)
        check_form(found, ["confusion"])
        assert found.numbers["confusion"] is None and found.numbers["classes"] == 0
        text = " ".join(found.texts["p"])
        assert "the data set 'cifar10' is not prepared" in text
        assert "no net classifies" in text

    def test_too_many_are_left_out(self, tmp_path):
        fabricate(tmp_path / "run", ["plain"], 1, 1, classes=201, images=300)
        found = read(tmp_path / "run")
        assert found.numbers["confusion"] is None
        assert any("201 classes are too many" in text for text in found.texts["p"])

    def test_nets_that_saw_other_images_are_refused(self, tmp_path, capsys):
        fabricate(tmp_path / "run", ["plain", "kd"], 1, 1)

        def change(result):
            # (The teacher is wrong about the first image alone.)
            place = result["correct"].index(1, 1)
            result["predicted"][place] = (result["predicted"][place] + 1) % 10

        edit(tmp_path / "run" / "plain-seed0" / "result.json", change)
        assert report.main([str(tmp_path / "run")]) == 2
        assert "for different test images" in capsys.readouterr().err

    def test_have_the_names_that_the_run_recorded(self, folder):
        assert json.loads((folder / "result.json").read_text())["class_names"] == [
            *"0123456789"
        ]
        names = ["T-shirt/top", "Trouser", *"23456789"]
        edit(folder / "result.json", lambda s: s.update(class_names=names))
        assert read(folder).numbers["class_names"] == names
        # (Earlier versions recorded no names.)
        edit(folder / "result.json", lambda s: s.pop("class_names"))
        assert read(folder).numbers["class_names"] == [*"0123456789"]


class TestOtherRuns:
    def test_without_a_teacher(self, folder):
        def change(summary):
            summary["teacher"] = None
            summary["config"]["teacher"] = None
            for own in summary["methods"].values():
                del own["agreement"]

        edit(folder / "result.json", change)
        shutil.rmtree(folder / "teacher")
        found = read(folder)
        check_form(found, ["rdms", "confusion"])
        assert "similarity" not in found.ids and list(found.numbers["rdms"]) == METHODS
        assert [row[0] for row in found.tables[0]] == ["method", *METHODS]
        assert "agreement, Pearson" not in found.tables[0][0]
        # No select is empty.
        assert "rdm-other" not in found.ids and "rdm-right" not in found.ids

    def test_with_a_teacher_from_elsewhere(self, folder):
        edit(folder / "teacher" / "result.json", lambda r: r.update(history=[]))
        source = {"file": "resnet8.npz", "sha256": "0"}
        edit(folder / "result.json", lambda s: s.update(teacher_source=source))
        found = read(folder)
        assert any("from resnet8.npz, not trained" in t for t in found.texts["li"])
        assert not list(found.paths("teacher")) and len(list(found.paths("kd"))) == 2

    def test_with_one_method_and_one_seed_and_one_epoch(self, tmp_path):
        fabricate(tmp_path / "run", ["plain"], seeds=1, epochs=1)
        found = read(tmp_path / "run")
        check_form(found)
        rows = {row[0]: row for row in found.tables[0]}
        assert rows["plain"][2:4] == ["–", "–"]
        assert any(": 1 epoch, 1 seed, batch" in text for text in found.texts["li"])
        # Two nets in two charts, beside each other.
        marks = [a["cx"] for _, a in found.tags if a.get("class") == "mark"]
        assert len(marks) == 4 and len({*marks}) == 2
        for name in ("teacher", "plain"):
            assert [line.shape for line in found.paths(name)] == [(1, 2)] * 2

    def test_of_one_epoch_and_two_seeds_the_range_is_drawn(self, tmp_path):
        fabricate(tmp_path / "run", ["plain", "kd"], seeds=2, epochs=1)
        found = read(tmp_path / "run")
        ranges = [a["d"] for _, a in found.tags if a.get("class") == "range"]
        assert len(ranges) == 4  # Two methods in two charts.
        for points in (re.findall("[0-9.]+", line) for line in ranges):
            (x1, y1, x2, y2) = map(float, points)
            assert x1 == x2 and y1 < y2

    def test_with_errors_of_zero(self, folder):
        def change(result):
            result["history"][-1]["validation_error"] = 0.0

        for seed in range(2):
            edit(folder / f"kd-seed{seed}" / "result.json", change)
        (line, _) = read(folder).paths("kd")
        assert line[-1, 1] == charts.PLOT[3] and (line[:-1, 1] < charts.PLOT[3]).all()


@pytest.mark.parametrize(
    ("low", "high"),
    [(9.4, 80), (0.05, 3), (26, 29), (1, 1e5), (19.9, 20.1), (1e-9, 1), (49, 101)],
)
def test_axes_have_round_numbers(low, high):
    for ticks in (charts._linear(low, high), charts._logarithmic(low, high)):
        assert 3 <= len(ticks) <= 40 and ticks == sorted(set(ticks))
        assert low <= ticks[0] and ticks[-1] <= high
        digits = [f"{tick:e}".split("e")[0].rstrip("0") for tick in ticks]
        assert max(map(len, digits)) <= 5


class TestTable:
    @pytest.fixture
    def table(self, tmp_path):
        """A table of two columns, one whose run is there."""
        summary = fabricate(tmp_path / "table" / "a run", ["plain", "kd"], 3, 4)
        keys = ("data", "teacher", "baseline", "methods", "mcnemar")
        column = {k: summary[k] for k in (*keys, "config")}
        better = json.loads(json.dumps(column))
        better["methods"]["kd"]["difference"] = {"mean": -2, "low": -3, "high": -1}
        better["mcnemar"] = [
            {"method": "kd", "seed": 0, "only_first": 1, "only_second": 9, "holm": 0.01}
        ]
        better |= {"name": BAD, "folder": "elsewhere", "teacher": None}
        better["published"] = {}
        column |= {"name": "a run", "folder": "a run"}
        column["published"] = {"teacher": 75.5, "plain": 70.25, "kd": 72.0}
        content = {
            "name": "invented",
            "note": f"{BAD}\n\nWhat it\nshows.",
            "columns": [column, better],
            "rows": ["plain", "kd", "at"],
            "differences": ["Batch 128 rather than 64.", BAD],
            "missing": {"vgg13 → vgg8": "no data"},
        }
        file = tmp_path / "table" / "table.json"
        file.write_text(json.dumps(content))
        return file.parent, column

    def test_form(self, table):
        folder, _ = table
        found = read(folder)
        ids = ["errors", "differences", "about", "settings", "missing"]
        ids += ["column-0", "column-1"]
        check_form(found, ids)
        assert [a["id"] for tag, a in found.tags if tag == "section"] == ids
        assert BAD in found.texts["h2"] and BAD in found.texts["li"]
        assert "vgg13 → vgg8: no data" in found.texts["li"]
        assert any("elsewhere, is missing" in text for text in found.texts["p"])

    def test_is_titled_by_what_was_run(self, table):
        folder, _ = table
        found = read(folder)
        assert found.texts["title"][0] == BAD and found.texts["h1"] == [BAD]
        assert "What it shows." in found.texts["p"]
        head = "Table invented. Data: nowhere; nets: mnist_cnn → mnist_cnn_small; "
        assert f"{head}epochs: 4; seeds: 3." in found.texts["p"]
        (words,) = (t for t in found.texts["p"] if t.startswith("Lower test error"))
        assert "the baseline: kd in " in words and " of 2 columns" in words

        def change(content):
            content["columns"][0]["name"] = "a run, but data=nowhere"

        edit(folder / "table.json", change)
        expected = "2 methods on nowhere, after the table invented"
        assert read(folder).texts["h1"] == [expected]

    def test_numbers(self, table):
        folder, column = table
        found = read(folder)
        head, *rows = found.tables[0]
        rows = {row[0]: row[1:] for row in rows}
        assert head == ["method", "a run", BAD]
        assert list(rows) == ["teacher", "plain", "kd", "at"]
        own = folder / "a run"
        truth, _ = numbers.true_classes(
            numbers.results(own, TAUGHT | {"methods": column["methods"]}), {}
        )
        errors = {
            method: [
                100 * np.mean(np.array(net(own, method, i)["predicted"]) != truth)
                for i in range(3)
            ]
            for method in ("plain", "kd")
        }
        each = np.subtract(errors["kd"], errors["plain"])
        interval = stats.t.interval(0.95, 2, each.mean(), stats.sem(each))
        first, published, difference, mcnemar = rows["kd"][0].split("|")
        expected = f"{np.mean(errors['kd']):.2f} ± {np.std(errors['kd'], ddof=1):.2f}"
        assert first == expected and published == "published 28.00"
        expected = "{:+.2f} [{:+.2f}, {:+.2f}]".format(each.mean(), *interval)
        assert difference.removeprefix("▲ ").removeprefix("▼ ") == expected
        assert ("▲" in difference) == (interval[0] > 0)
        assert ("▼" in difference) == (interval[1] < 0)
        assert mcnemar == f"McNemar: {markdown.significant('kd', column['mcnemar'])}"
        assert rows["teacher"][0].endswith("|published 24.50")
        assert rows["plain"][0].endswith("|published 29.75")
        assert rows["kd"][1].endswith(
            "|▼ -2.00 [-3.00, -1.00]|McNemar: worse in 1 of 1"
        )
        assert rows["at"] == ["–", "–"] and rows["teacher"][1] == "–"

    def test_picture(self, table):
        folder, column = table
        found = read(folder)
        points = [a for _, a in found.tags if a.get("class") == "point"]
        rings = [a for _, a in found.tags if a.get("class") == "ring"]
        zeros = [a["d"] for _, a in found.tags if a.get("class") == "zero"]
        ends = [a["d"] for _, a in found.tags if a.get("class") == "interval"]
        assert len(points) == len(zeros) == len(ends) == 2 and len(rings) == 1
        # Zero, the point and the ends of the interval tell the scale; so the ring.
        zero, (low, high) = (
            float(re.findall("M([0-9.]+)", zeros[0])[0]),
            map(float, re.findall(r"M([0-9.]+) [0-9]+H([0-9.]+)", ends[0])[0]),
        )
        difference = column["methods"]["kd"]["difference"]
        scale = (high - low) / (difference["high"] - difference["low"])
        at = zero + scale * difference["mean"]
        assert float(points[0]["cx"]) == pytest.approx(at, abs=0.3)
        assert low == pytest.approx(zero + scale * difference["low"], abs=0.3)
        published = 70.25 - 72.0
        at = zero + scale * published
        assert float(rings[0]["cx"]) == pytest.approx(at, abs=0.3)

    def test_links_to_pages_of_runs(self, table):
        folder, _ = table
        assert "a%20run/report.html" not in read(folder).links
        read(folder / "a run")
        assert "a%20run/report.html" in read(folder).links
        elsewhere = folder.parent / "elsewhere.html"
        found = read(folder, f"--out={elsewhere}")
        assert "table/a%20run/report.html" in found.links
        check_form(Page(elsewhere.read_text()))

    def test_a_large_one_is_below_ten_megabytes(self, tmp_path):
        methods = ["plain", *(f"method {i}" for i in range(14))]
        summary = fabricate(tmp_path / "run", methods, seeds=5, epochs=240)
        keys = ("data", "teacher", "baseline", "methods", "mcnemar")
        column = {k: summary[k] for k in (*keys, "config")}
        column |= {"folder": "run", "published": {}}
        content = {
            "name": "large",
            "note": "Many",
            "columns": [column | {"name": f"column {i}"} for i in range(13)],
            "rows": methods,
            "differences": [],
            "missing": {},
        }
        (tmp_path / "table.json").write_text(json.dumps(content))
        found = read(tmp_path)
        assert len(found.numbers["curves"]) == 26
        assert len(list(found.paths("method 13"))) == 26
        ids = [a["id"] for tag, a in found.tags if tag == "section"]
        assert "settings" not in ids and "missing" not in ids and len(ids) == 15
        size = (tmp_path / "report.html").stat().st_size
        assert 1e6 < size < 10e6


class TestWrongCalls:
    def refused(self, capsys, *arguments):
        """What a command says that fails in words."""
        assert report.main([str(a) for a in arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and "Traceback" not in said
        return said

    def test_a_folder_of_something_else(self, tmp_path, capsys):
        (tmp_path / "thesis.txt").write_text("years of work")
        for folder in (tmp_path, tmp_path / "nothing", tmp_path / "thesis.txt"):
            said = self.refused(capsys, folder)
            assert f"{folder} holds no table (table.json) and no finished run" in said
        assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]

    def test_an_unfinished_run(self, folder, capsys):
        (folder / "result.json").unlink()
        assert "--resume finishes one" in self.refused(capsys, folder)

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("result.json", '{"config": '),
            ("result.json", "[1, 2]"),
            ("result.json", '{"config": {}}'),
            ("result.json", "[" * 100_000),
            ("kd-seed1/result.json", "\0"),
            ("kd-seed1/result.json", "{}"),
            ("kd-seed1/result.json", None),
            ("teacher/rdms.npz", "not a file of arrays"),
            ("plain-seed0/rdms/epoch-0001.npz", "nor this"),
            ("table.json", "{}"),
            ("table.json", '{"columns": 3}'),
        ],
        ids=lambda value: str(value)[:24],
    )
    def test_damaged_and_missing_files(self, folder, capsys, file, content):
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        path.unlink() if content is None else path.write_text(content)
        said = self.refused(capsys, folder)
        assert "damaged" in said and str(folder) in said
        assert not (folder / "report.html").exists()

    @pytest.mark.parametrize("file", ["result.json", "kd-seed1/rdms.npz", "table.json"])
    def test_pipes_that_nobody_writes_to(self, folder, capsys, file):
        (folder / file).unlink(missing_ok=True)
        os.mkfifo(folder / file)
        said = self.refused(capsys, folder)
        assert "damaged" in said and f"there is no file {folder / file}" in said

    def test_nets_with_other_test_images(self, folder, capsys):
        edit(folder / "kd-seed1" / "result.json", lambda r: r["predicted"].pop())
        assert "damaged" in self.refused(capsys, folder)

    def test_settings(self, finished, tmp_path, capsys):
        assert report.main([str(finished), "--outt=x"]) == 2
        said = capsys.readouterr().err
        assert "--out" in said and "Unrecognized" in said
        assert "cannot write" in self.refused(capsys, finished, f"--out={tmp_path}")
        missing = tmp_path / "nothing" / "page.html"
        assert "cannot write" in self.refused(capsys, finished, f"--out={missing}")

    def test_texts_that_no_file_takes(self, folder):
        edit(folder / "result.json", lambda s: s.update(device="\ud800"))
        assert report.main([str(folder)]) == 0


# Moves what can be moved, and says what was drawn before and after.
DRIVE = """
<script>
const seen = {error: document.documentElement.dataset.error ?? ""};
const pixels = (id) => {
  const canvas = document.querySelector(`#${id} canvas`);
  const all = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const sum = all.data.reduce((sum, value) => (sum * 31 + value) % 1000003, 7);
  return {n: canvas.width, sum};
};
const cells = (id) => [...document.querySelectorAll(`#${id} tr`)].map((row) =>
  [...row.children].map((cell) => cell.textContent));
const choose = (id, value, kind = "change") => {
  document.getElementById(id).value = value;
  document.getElementById(id).dispatchEvent(new Event(kind, {bubbles: true}));
};
const look = (name) => seen[name] = {
  left: pixels("rdm-left"), right: pixels("rdm-right"),
  rho: document.getElementById("rdm-rho").textContent, cells: cells("rdm-table"),
  when: document.getElementById("rdm-when").textContent,
  title: document.querySelector("#rdm-left figcaption").textContent};
choose("rdm-net", "kd");
choose("rdm-layer", "pooled");
look("last");
choose("rdm-epoch", "0", "input");
look("first");
choose("rdm-other", "logits");
look("other");
choose("rdm-net", "teacher");
look("teacher");
seen.similar = cells("similarity-table");
choose("similarity-method", "plain");
choose("similarity-kind", "spearman");
seen.spearman = cells("similarity-table");
seen.student = cells("confusion-left");
choose("confusion-method", "plain");
seen.plain = cells("confusion-left");
seen.right = cells("confusion-right");
const svg = document.querySelector("svg.chart");
svg.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft", bubbles: true}));
seen.tip = document.getElementById("tip").textContent;
const box = document.querySelector(".legend input[value=kd]");
box.click();
seen.hidden = [...document.querySelectorAll(".series")].filter(
  (line) => getComputedStyle(line).display === "none").map((l) => l.dataset.name);
seen.error += document.documentElement.dataset.error ?? "";
document.documentElement.dataset.seen = JSON.stringify(seen);
</script></body>"""


@pytest.fixture
def look(tmp_path):
    """The page as a browser leaves it; skips where there is none."""
    found = [shutil.which(name) for name in NAMES if shutil.which(name)]
    if not found:
        pytest.skip(f"no browser among {', '.join(NAMES)}")

    def look(file):
        profile = tmp_path / "browser"
        call = [found[0], "--headless", "--no-sandbox", "--disable-gpu"]
        call += [f"--user-data-dir={profile}", "--dump-dom", file.as_uri()]
        done = subprocess.run(call, capture_output=True, timeout=120, check=True)
        return Page(done.stdout.decode())

    return look


class TestBrowser:
    @staticmethod
    def about(found):
        (attributes,) = (a for tag, a in found.tags if tag == "html")
        assert "data-error" not in attributes, attributes["data-error"]
        assert attributes["data-drawn"] == "yes"
        return attributes

    def test_what_can_be_switched_is_drawn_anew(self, folder, look):
        recorded = record(folder / "kd-seed0", [1, 2, 3])
        taught = record(folder / "teacher", [1, 2])
        numbers = read(folder).numbers
        file = folder / "report.html"
        file.write_text(file.read_text().replace("</body>", DRIVE))
        seen = json.loads(self.about(look(file))["data-seen"])
        assert seen["error"] == ""
        last, first, other = seen["last"], seen["first"], seen["other"]
        assert last["left"]["n"] == last["right"]["n"] == 100
        assert (last["when"], first["when"]) == ("3", "1")
        assert last["title"] == "kd, pooled, epoch 3"
        assert seen["teacher"]["title"] == "teacher, pooled, epoch 2"
        # Epoch, layer and net each change their side, and only that.
        assert first["left"] != last["left"] and first["right"] == last["right"]
        assert other["left"] == first["left"] and other["right"] != first["right"]
        assert seen["teacher"]["left"] == last["right"]
        for now, epoch, layer in ((last, 3, "pooled"), (first, 1, "pooled")):
            rho = stats.spearmanr(recorded[epoch]["pooled"], taught[2][layer]).statistic
            assert f"of the two: {rho:.2f}." in now["rho"]
        head, *rows = last["cells"]
        assert head == ["", "1", "2", "3"] and [row[0] for row in rows] == [*LAYERS]
        for layer, *row in rows:
            for epoch, text in enumerate(row, 1):
                pair = recorded[epoch][layer], taught[2][layer]
                expected = stats.spearmanr(*pair).statistic
                assert float(text) == pytest.approx(expected, abs=0.0051)
        # Each pixel has its percentile's colour; the diagonal that of 0.
        bytes_of = {
            k: base64.b64decode(text)
            for k, text in (
                ("own", numbers["rdms"]["kd"]["layers"]["pooled"][2]),
                ("map", numbers["viridis"]),
            )
        }
        own = distance.squareform(np.frombuffer(bytes_of["own"], np.uint8))
        colours = np.frombuffer(bytes_of["map"], np.uint8).reshape(256, 3)
        image = np.dstack([colours[own], np.full(own.shape, 255)]).ravel().tolist()
        expected = functools.reduce(lambda s, x: (s * 31 + x) % 1_000_003, image, 7)
        assert last["left"]["sum"] == expected
        for key, method, kind in (
            ("similar", "kd", "pearson"),
            ("spearman", "plain", "spearman"),
        ):
            found = numbers["similarity"]
            expected = np.array(found["methods"][method][kind])
            cells = np.array([row[1:] for row in seen[key][1:]], float)
            np.testing.assert_allclose(cells, expected, atol=0.0051)
        images = np.array(numbers["confusion"]["images"])[:, None]
        for key, method in (
            ("student", "kd"),
            ("plain", "plain"),
            ("right", "teacher"),
        ):
            expected = 100 * np.array(numbers["confusion"]["nets"][method]) / images
            cells = [[c.replace("·", "0") for c in row[1:]] for row in seen[key][1:]]
            np.testing.assert_allclose(np.array(cells, float), expected, atol=0.0501)
        curve = {s["name"]: s["mean"][1] for s in numbers["curves"][0]["series"]}
        tip = seen["tip"].split("\n")
        assert tip[0] == "epoch 2" and len(tip) == 4
        assert any(line.startswith(f"kd  {curve['kd']:g}") for line in tip)
        assert seen["hidden"] == ["kd", "kd"]

    def test_many_classes_no_teacher_and_bad_names(self, tmp_path, look):
        run_folder = tmp_path / "run"
        fabricate(run_folder, ["plain", '<b>&"'], 2, 3, classes=30, images=200)
        edit(run_folder / "result.json", lambda s: s["config"].update(name=BAD))
        read(run_folder)
        found = look(run_folder / "report.html")
        self.about(found)
        sizes = [a["width"] for tag, a in found.tags if tag == "canvas"]
        assert sizes == ["30", "30"]
        assert '<b>&", mean over seeds' in found.texts["figcaption"]

        def change(summary):
            summary["teacher"] = None

        edit(run_folder / "result.json", change)
        record(run_folder / "plain-seed0", [1, 2])
        read(run_folder)
        found = look(run_folder / "report.html")
        self.about(found)
        sizes = [a["width"] for tag, a in found.tags if tag == "canvas"]
        # (Without the teacher no net is right about some images.)
        assert sizes == ["100"]
