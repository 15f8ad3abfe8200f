"""The page about a run with measured RDMs: tables, curves, matrices, maps."""

import base64
import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import distance

from experiments import brain
from experiments.analyses.report import encoding
from experiments.results import aggregate
from tests import test_report
from tests.test_report import edit, fabricate, read

look = test_report.look  # A fixture.

N, EPOCHS, SEEDS = 24, 3, 2
LAYERS, MEASURED, METHODS = ("stage1", "pooled"), ("it", "ape"), ("plain", "it")
NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
NAMES += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


@pytest.fixture(scope="module")
def points():
    """Places of the stimuli in a plane, whose squared distances are the RDM "it"."""
    return np.random.default_rng(0).normal(size=(N, 2))


@pytest.fixture
def folder(points, tmp_path):
    """A run that never was: two methods, two seeds, two measured RDMs, two layers."""
    rng, folder = np.random.default_rng(1), tmp_path / "run"
    fabricate(folder, METHODS, SEEDS, EPOCHS)
    file = tmp_path / "stimuli.npz"
    measured = {"it": distance.pdist(points, "sqeuclidean"), "ape": rng.random(276)}
    np.savez(file, images=rng.integers(0, 256, (N, 8, 6, 3), np.uint8), **measured)
    histories = rng.random((len(METHODS), SEEDS, EPOCHS, len(MEASURED), len(LAYERS)))
    for method, of_method in zip(METHODS, histories, strict=True):
        for seed, of_seed in enumerate(of_method):
            own = folder / f"{method}-seed{seed}"
            # (The nets of seed 1 have the geometry of "it".)
            rdms = [rng.random(276), measured["it"]]
            np.savez(own / "brain.npz", **dict.fromkeys(LAYERS, rdms[seed]))

            def change(result, of_seed=of_seed):
                for epoch, found in zip(result["history"], of_seed, strict=True):
                    for name, of_layers in zip(MEASURED, found, strict=True):
                        for layer, r in zip(LAYERS, of_layers, strict=True):
                            epoch[f"held out: {name}/{layer}"] = r

            edit(own / "result.json", change)
    for seed in range(SEEDS):
        np.savez(
            folder / f"before-seed{seed}.npz", **dict.fromkeys(LAYERS, np.ones(276))
        )
    agreement = {
        method: {
            layer: {
                kind: aggregate.spread_and_values(rng.random(SEEDS))
                for kind in ("pearson", "spearman", "whitened", "shown")
            }
            | {"interval": [-0.1, 0.5]}
            | ({"difference": [0.1, -0.2, 0.3]} if method == "it" else {})
            for layer in LAYERS
        }
        for method in ("before", *METHODS)
    }
    ceilings = {"pearson": [0.4, 0.7], "spearman": [0.3, 0.6]}
    rdms = {
        "it": {"ceilings": ceilings, "agreement": agreement},
        "ape": {"ceilings": {}, "agreement": agreement},
    }
    found = {"held_out": 12, "shown": 12, "rdms": rdms}

    def change(summary):
        summary |= {"brain": found, "teacher": None, "class_names": NAMES}
        summary["config"] |= {
            "brain": str(file),
            "held_out": 0.5,
            "brain_signed": False,
        }
        for own in summary["methods"].values():
            del own["agreement"]

    edit(folder / "result.json", change)
    record = {"brain_file": hashlib.sha256(file.read_bytes()).hexdigest()}
    (folder / "config.json").write_text(json.dumps(record))
    return folder


def test_form(folder):
    found = read(folder)
    ids = ("brain", "agreement", "layers", "stimuli", "maps", "curves", "confusion")
    test_report.check_form(found, ids)
    assert "pre" not in found.texts and "rdm-other" not in found.ids
    assert (folder / "report.html").stat().st_size < 300_000


def test_tables_have_the_numbers_of_the_result(folder):
    tables = [
        of for of in read(folder).tables if of and of[0][:2] == ["method", "layer"]
    ]
    summary = json.loads((folder / "result.json").read_text())
    assert len(tables) == 2
    for name, (_, *rows) in zip(MEASURED, tables, strict=True):
        assert len(rows) == 6
        for method, layer, *cells in rows:
            of = summary["brain"]["rdms"][name]["agreement"][method][layer]
            expected = [
                f"{np.mean(v):.3f} ± {np.std(v, ddof=1):.3f}"
                for v in (of[k]["values"] for k in ("pearson", "spearman", "whitened"))
            ]
            assert [cells[0], cells[3], cells[4]] == expected
            assert cells[1] == "[-0.100, 0.500]"
            known = method == "it"
            assert cells[2] == ("+0.100 [-0.200, +0.300]" if known else "–")


def test_captions_have_the_noise_ceiling(folder):
    captions = read(folder).texts["figcaption"]
    ceiling = "noise ceiling: Pearson 0.400 to 0.700, Spearman 0.300 to 0.600"
    assert f"Agreement with it ({ceiling})" in captions
    assert "Agreement with ape" in captions


def test_agreement_over_training_begins_before_it(folder):
    found = read(folder)
    panels = [p for p in found.numbers["curves"] if p["section"] == "agreement"]
    assert [panel["label"].partition(":")[0] for panel in panels] == [
        f"{name}, {layer}" for name in MEASURED for layer in LAYERS
    ]
    summary = json.loads((folder / "result.json").read_text())
    starts = summary["brain"]["rdms"]["it"]["agreement"]["before"]["pooled"]["pearson"]
    (_, panel, *_) = panels
    assert panel["first"] == 0
    for line in panel["series"]:
        values = [
            [epoch["held out: it/pooled"] for epoch in own["history"]]
            for own in (test_report.net(folder, line["name"], i) for i in range(SEEDS))
        ]
        values = np.column_stack([starts["values"], values])
        for kind, over in (("mean", np.mean), ("low", np.min), ("high", np.max)):
            np.testing.assert_allclose(line[kind], over(values, axis=0), rtol=5.1e-4)


def test_curves_and_ceilings_are_drawn_on_a_linear_axis(folder):
    found = read(folder)
    panels = [p for p in found.numbers["curves"] if p["section"] == "agreement"]
    boxes = [a for _, a in found.tags if a.get("class") == "ceiling"]
    assert len(boxes) == 3  # Two layers over training; all layers.
    for method in METHODS:
        drawn = list(found.paths(method))
        for place, panel in enumerate(panels):
            (values,) = (s["mean"] for s in panel["series"] if s["name"] == method)
            assert len(values) == len(drawn[place]) == EPOCHS + 1
            slope, offset = np.polyfit(values, drawn[place][:, 1], 1)
            assert slope < 0
            expected = slope * np.array(values) + offset
            np.testing.assert_allclose(drawn[place][:, 1], expected, atol=0.2)
            if panel["ceiling"]:
                top = float(boxes[place]["y"])
                assert slope * 0.7 + offset == pytest.approx(top, abs=0.3)
                bottom = top + float(boxes[place]["height"])
                assert slope * 0.4 + offset == pytest.approx(bottom, abs=0.3)


def test_agreement_over_layers(folder):
    found = read(folder)
    panels = [p for p in found.numbers["curves"] if p["section"] == "layers"]
    assert len(panels) == 2 and panels[0]["names"] == [*LAYERS]
    agreement = json.loads((folder / "result.json").read_text())["brain"]["rdms"]["it"]
    for line in panels[0]["series"]:
        of = agreement["agreement"][line["name"]]
        expected = [of[layer]["pearson"]["mean"] for layer in LAYERS]
        np.testing.assert_allclose(line["mean"], expected, rtol=5.1e-4)
    texts = [text for _, text in found.labels]
    assert "stage1" in texts and "pooled" in texts


def test_rdms_of_the_stimuli(folder, points):
    found = read(folder).numbers["brain"]
    assert found["layers"] == [*LAYERS]
    assert found["measured"] == ["it (measured)", "ape (measured)"]
    for layer in LAYERS:
        names = [*found["measured"], "before", *METHODS]
        assert list(found["rdms"][layer]) == names
        text = found["rdms"][layer]["it (measured)"]
        expected = encoding.percentiles(distance.pdist(points, "sqeuclidean"))
        assert text == expected
    _, held_out = brain.divide(N, 0.5)
    assert np.flatnonzero(found["held_out"]).tolist() == held_out.tolist()
    means = found["agreement"]["it"]["plain"]
    assert {*means} == {*LAYERS} and all(0 <= r <= 1 for r in means.values())


def test_stimuli_in_the_plane_are_as_far_apart_as_measured(folder, points):
    places = read(folder).numbers["brain"]["planes"]["pooled"]["it (measured)"]
    r = np.corrcoef(distance.pdist(np.array(places)), distance.pdist(points))[0, 1]
    assert r > 0.999


def test_a_net_with_the_geometry_of_a_brain_is_at_its_place(folder):
    found = read(folder)
    maps = found.numbers["brain"]["maps"]["pooled"]
    assert list(maps) == ["it (measured)", "ape (measured)", "before", *METHODS]
    assert [len(places) for places in maps.values()] == [1, 1, 2, 2, 2]
    (there,), (other, same) = maps["it (measured)"], maps["plain"]
    np.testing.assert_allclose(same, there, atol=1e-6)
    assert np.linalg.norm(np.subtract(other, there)) > 0.01
    shapes = [a.get("class") for _, a in found.tags]
    # Two layers, and the legend.
    assert shapes.count("diamond") == 2 * 2 + 2 and shapes.count("net") == 6 * 2 + 3


def test_thumbnails_are_small(folder):
    text = read(folder).numbers["brain"]["sprite"]
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    assert image.size == (encoding.TILE * N, encoding.TILE) and image.mode == "P"


def test_other_or_missing_files_are_named(folder, tmp_path):
    file = tmp_path / "stimuli.npz"
    with np.load(file) as arrays:
        np.savez(tmp_path / "other.npz", **{**arrays, "more": np.ones(3)})
    cases = {
        tmp_path / "other.npz": "it is not the file of this run",
        tmp_path / "none.npz": "cannot be read",
    }
    for other, words in cases.items():
        out = tmp_path / "page.html"
        arguments = [str(folder), f"--brain={other}", f"--out={out}"]
        assert test_report.report.main(arguments) == 0
        found = test_report.Page(out.read_text())
        test_report.check_form(found, ["brain", "stimuli"])
        assert any(words in text and str(other) in text for text in found.texts["p"])
        numbers = found.numbers["brain"]
        assert numbers["sprite"] is None and numbers["measured"] == []
        assert list(numbers["rdms"]["pooled"]) == ["before", *METHODS]
    # Elsewhere the same file is as good.
    moved = file.rename(tmp_path / "moved.npz")
    arguments = [str(folder), f"--brain={moved}", f"--out={out}"]
    assert test_report.report.main(arguments) == 0
    found = test_report.Page(out.read_text())
    assert found.numbers["brain"]["measured"] and found.numbers["brain"]["sprite"]


def test_nets_without_rdms_of_the_stimuli(folder):
    for file in (*folder.glob("*/brain.npz"), *folder.glob("before-*.npz")):
        file.unlink()
    found = read(folder)
    test_report.check_form(found, ["brain", "agreement", "stimuli"])
    assert "maps" not in found.ids and "stimuli-layer" not in found.ids


def test_a_map_needs_three_rdms(folder, tmp_path):
    for file in (*folder.glob("it*/brain.npz"), *folder.glob("before-*.npz")):
        file.unlink()
    (tmp_path / "stimuli.npz").unlink()
    found = read(folder)
    test_report.check_form(found, ["stimuli"])
    assert "maps" not in found.ids and found.numbers["brain"]["maps"] == {}


def test_damaged_files(folder, capsys):
    (folder / "it-seed1" / "brain.npz").write_text("no arrays")
    assert test_report.report.main([str(folder)]) == 2
    said = capsys.readouterr().err
    assert "it-seed1/brain.npz is damaged" in said


# Says the colours of a pair that was not measured and of another, and their words.
DRIVE = """
<script>
const seen = {};
const figure = document.createElement("figure");
document.body.append(figure);
draw_rdm(figure, "", new Uint8Array([254, 255, 127]), 0, (i) => `stimulus ${i}`);
const canvas = figure.querySelector("canvas");
Object.assign(canvas.style, {width: "300px", height: "300px"});
const point = (j) => {
  const box = canvas.getBoundingClientRect();
  const [x, y] = [box.left + 50 + 100 * j, box.top + 50];
  canvas.dispatchEvent(new PointerEvent("pointermove", {clientX: x, clientY: y}));
  const colour = [...canvas.getContext("2d").getImageData(j, 0, 1, 1).data];
  return [colour, document.getElementById("tip").textContent.split("\\n").at(-1)];
};
[seen.full, seen.missing] = [point(1), point(2)];
const [x, y] = [[1, 5, 9, 255], [2, 255, 4, 7]].map((of) => new Uint8Array(of));
seen.r = [correlation(x, y), correlation(x, new Uint8Array(4).fill(255))];
document.documentElement.dataset.seen = JSON.stringify(seen);
</script></body>"""


def test_pairs_that_were_not_measured_are_grey_in_a_browser(folder, look):
    read(folder)
    file = folder / "report.html"
    file.write_text(file.read_text().replace("</body>", DRIVE))
    seen = json.loads(test_report.TestBrowser.about(look(file))["data-seen"])
    assert seen["missing"] == [[224, 224, 224, 255], "not measured"]
    colour, words = seen["full"]
    assert words == "percentile 100" and colour[0] > 230 and colour[2] < 60
    assert seen["r"] == [pytest.approx(1), None]


def test_in_a_browser(folder, look):
    test_report.record(folder / "plain-seed0", [1, 2])
    read(folder)
    found = look(folder / "report.html")
    test_report.TestBrowser.about(found)
    labels = [a["aria-label"] for tag, a in found.tags if tag == "canvas"]
    # RDMs and planes of two brains and three nets; RDMs of test images.
    assert len(labels) == 5 + 5 + 1
    captions = found.texts["figcaption"]
    r = json.loads((folder / "result.json").read_text())["brain"]["rdms"]["it"]
    r = r["agreement"]["plain"]["pooled"]["pearson"]["mean"]
    assert captions.count(f"plain, r = {r:.2f}") == 2
    assert captions.count("it (measured)") == 2
    # Classes have names, in tables and along matrices.
    assert all(name in found.texts["th"] for name in NAMES)
    assert all(name in found.texts["span"] for name in NAMES)
