"""Pictures of RDMs, of stimuli in a plane, and of models."""

import sys

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from scipy import linalg, stats
from scipy.spatial import distance

from rdljax import errors, inference, plots, rdm, statistics


@pytest.fixture(autouse=True)
def closed(monkeypatch):
    """Nothing is shown, and no figure stays open."""
    monkeypatch.setattr(plt, "show", lambda *_, **__: pytest.fail("a figure is shown"))
    yield
    plt.close("all")


def points(n=9, dimensions=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dimensions))


def distances(n=9, seed=0):
    """An RDM of random points in ten dimensions, all distances different."""
    return distance.pdist(points(n, 10, seed))


def texts(labels):
    return [label.get_text() for label in labels]


def sizes_of_text(figure):
    """The size of each text that is seen."""
    figure.canvas.draw()
    found = figure.findobj(matplotlib.text.Text)
    return [text.get_fontsize() for text in found if text.get_text()]


class TestPercentiles:
    def test_are_the_ranks_of_scipy(self):
        x = np.round(distances(), 1)  # With ties.
        assert len(set(x)) < len(x)
        expected = [stats.percentileofscore(x, value, "mean") for value in x]
        half_a_rank = 50 / len(x)  # `percentileofscore` takes the middle of a rank.
        found = plots.percentiles(x)
        np.testing.assert_allclose(found, np.add(expected, half_a_rank), rtol=1e-12)
        np.testing.assert_allclose(found, 100 * stats.rankdata(x) / len(x))
        assert found.max() <= 100

    def test_leave_missing_pairs_out(self):
        x = distances()
        x[[3, 8]] = np.nan
        found, known = plots.percentiles(x), np.isfinite(x)
        np.testing.assert_array_equal(np.isnan(found), ~known)
        np.testing.assert_array_equal(
            found[known], 100 * stats.rankdata(x[known]) / known.sum()
        )


class TestRdm:
    def test_the_picture_has_the_percentiles_of_the_matrix(self):
        x = distances()
        axes = plots.draw_rdm(x)
        (image,) = axes.images
        expected = distance.squareform(100 * stats.rankdata(x) / len(x))
        np.testing.assert_allclose(image.get_array(), expected)
        assert image.get_clim() == (0, 100)
        bar = axes.figure.axes[1]
        assert bar.get_ylabel() == "percentile of the distance"

    def test_a_matrix_is_drawn_as_its_upper_triangle(self):
        x = distances()
        square = distance.squareform(x) + np.diag(np.full(9, np.nan))
        drawn = [plots.draw_rdm(one).images[0].get_array() for one in (x, square)]
        np.testing.assert_array_equal(*drawn)

    def test_distances_themselves(self):
        x = distances() - 3
        axes = plots.draw_rdm(x, transform=None)
        (image,) = axes.images
        np.testing.assert_allclose(image.get_array(), distance.squareform(x))
        assert image.get_clim() == (min(x.min(), 0), max(x.max(), 0))
        assert axes.figure.axes[1].get_ylabel() == "distance"
        assert plots.draw_rdm(x, limits=(-1, 2)).images[0].get_clim() == (-1, 2)

    def test_missing_pairs_have_the_colour_of_the_panel(self):
        x = distances()
        x[0] = np.nan
        axes = plots.draw_rdm(x)
        mask = np.ma.getmaskarray(axes.images[0].get_array())
        np.testing.assert_array_equal(np.argwhere(mask), [(0, 1), (1, 0)])
        assert axes.images[0].cmap.get_bad()[3] == 0
        assert axes.get_facecolor() == matplotlib.colors.to_rgba("0.88")

    def test_groups_have_a_name_each_and_lines_between_them(self):
        labels = ["face"] * 4 + ["hand"] * 2 + ["fruit"] * 3
        axes = plots.draw_rdm(distances(), labels=labels)
        assert texts(axes.get_xticklabels()) == ["face", "hand", "fruit"]
        np.testing.assert_allclose(axes.get_xticks(), [1.5, 4.5, 7])
        np.testing.assert_allclose(axes.get_yticks(), [1.5, 4.5, 7])
        upright = {line.get_xdata()[0] for line in axes.lines[::2]}
        assert upright == {3.5, 5.5} and len(axes.lines) == 4

    def test_names_of_single_stimuli_have_no_lines(self):
        axes = plots.draw_rdm(distances(), labels=np.arange(9))
        assert texts(axes.get_yticklabels()) == [str(i) for i in range(9)]
        assert not axes.lines

    def test_more_than_twenty_groups_have_no_names(self):
        axes = plots.draw_rdm(distances(42), labels=np.repeat(np.arange(21), 2))
        assert texts(axes.get_xticklabels()) == [""] * 21 and not axes.lines

    @pytest.mark.parametrize(("sizes", "angle"), [((3, 3, 3), 0), ((7, 1, 1), 90)])
    def test_names_of_small_groups_do_not_overlap(self, sizes, angle):
        labels = np.repeat(["a name", "another", "a third"], sizes)
        axes = plots.draw_rdm(distances(), labels=labels)
        assert {x.get_rotation() for x in axes.get_xticklabels()} == {angle}

    @pytest.mark.parametrize(("name", "angle"), [("{}", 0), ("a long name {}", 90)])
    def test_names_that_do_not_fit_are_upright(self, name, angle):
        axes = plots.draw_rdm(distances(), labels=[name.format(i) for i in range(9)])
        assert {x.get_rotation() for x in axes.get_xticklabels()} == {angle}

    def test_the_given_panel_is_drawn_on(self):
        figure, (first, second) = plt.subplots(1, 2)
        assert plots.draw_rdm(distances(), second, colour_bar=False) is second
        assert not first.images and len(second.images) == 1
        assert plt.get_fignums() == [figure.number] and len(figure.axes) == 2

    @pytest.mark.parametrize(
        ("x", "words"),
        [
            (np.zeros((3, 4)), r"\[pairs\] or \[n, n\]: got \(3, 4\)"),
            (np.zeros((2, 3, 3)), r"got \(2, 3, 3\)"),
            (np.zeros(4), "no condensed RDM has 4 distances"),
            (np.arange(9.0).reshape(3, 3), r"symmetric RDM, this \(3, 3\) is not"),
            (np.full(3, np.nan), "a finite distance"),
        ],
    )
    @pytest.mark.parametrize(
        "function", [plots.draw_rdm, plots.draw_mds, plots.percentiles]
    )
    def test_what_is_not_an_rdm_is_refused(self, function, x, words):
        with pytest.raises(ValueError, match=words):
            function(x)

    def test_another_number_of_labels_is_refused(self):
        with pytest.raises(ValueError, match=r"each of 9 stimuli: got \(8,\)"):
            plots.draw_rdm(distances(), labels=range(8))


class TestRdms:
    def test_all_have_one_scale_and_their_titles(self):
        rdms = {"small": distances(), "large": 3 * distances(seed=1)}
        figure = plots.draw_rdms(rdms, transform=None)
        first, second, bar = figure.axes
        assert [first.get_title(), second.get_title()] == ["small", "large"]
        limits = 0, rdms["large"].max()
        assert first.images[0].get_clim() == second.images[0].get_clim() == limits
        assert bar.get_ylabel() == "distance"

    def test_the_correlation_with_the_reference_is_below(self):
        rdms = {name: distances(seed=i) for i, name in enumerate("abc")}
        rdms["b"][5] = np.nan
        known = np.isfinite(rdms["b"])
        figure = plots.draw_rdms(rdms, reference="c")
        said = [axes.get_xlabel() for axes in figure.axes[:3]]
        r = np.corrcoef(rdms["b"][known], rdms["c"][known])[0, 1]
        assert said[1:] == [f"r = {r:.2f}", ""]
        assert said[0] == f"r = {np.corrcoef(rdms['a'], rdms['c'])[0, 1]:.2f}"

    def test_rows_have_names_and_may_be_shorter(self):
        row = {"net": distances(), "brain": distances(seed=1)}
        figure = plots.draw_rdms(row, {"net": distances()}, names=["stage1", "pooled"])
        panels = figure.axes[:4]
        assert [axes.get_ylabel() for axes in panels] == ["stage1", "", "pooled", ""]
        assert [len(axes.images) for axes in panels] == [1, 1, 1, 0]
        assert not panels[3].axison

    @pytest.mark.parametrize(
        ("rows", "options", "words"),
        [
            ([], {}, "takes RDMs"),
            ([{}], {}, "takes RDMs"),
            ([{"a": distances()}], {"names": ["x", "y"]}, "a name for each row"),
            ([{"a": distances()}], {"reference": "b"}, "no reference 'b'"),
            ([{"a": distances()}], {"labels": [1]}, "each of 9 stimuli"),
            ([{"a": distances(), "b": distances(8)}], {}, r"same stimuli: .*36, 28"),
        ],
    )
    def test_what_does_not_fit_together_is_refused(self, rows, options, words):
        with pytest.raises(ValueError, match=words):
            plots.draw_rdms(*rows, **options)
        assert not plt.get_fignums()


class TestSimilarity:
    def test_cells_have_their_value_and_axes_their_names(self):
        x = np.array([[0.9, 0.1, np.nan], [0.25, 1, -0.5]])
        axes = plots.draw_similarity(x, rows=["r1", "r2"], columns=["a", "b", "c"])
        written = {t.get_position(): t.get_text() for t in axes.texts}
        expected = {(0, 0): "0.90", (1, 0): "0.10", (0, 1): "0.25"}
        assert written == expected | {(1, 1): "1.00", (2, 1): "-0.50"}
        assert texts(axes.get_xticklabels()) == ["a", "b", "c"]
        assert texts(axes.get_yticklabels()) == ["r1", "r2"]
        assert axes.images[0].get_clim() == (0, 1)
        colours = {t.get_text(): t.get_color() for t in axes.texts}
        assert (colours["1.00"], colours["0.10"]) == ("black", "white")

    def test_many_cells_have_no_values(self):
        assert not plots.draw_similarity(np.zeros((13, 12))).texts

    @pytest.mark.parametrize(
        ("x", "names"),
        [(np.zeros(3), None), (np.zeros((0, 2)), None), (np.zeros((2, 2)), ["a"])],
    )
    def test_other_shapes_are_refused(self, x, names):
        with pytest.raises(ValueError, match=r"takes a matrix \[rows, columns\]"):
            plots.draw_similarity(x, columns=names)

    def test_correlations_are_those_of_numpy(self):
        first, second = ([distances(seed=10 * k + i) for i in range(2)] for k in (1, 2))
        found = plots.correlate_rdms(first, second)
        np.testing.assert_allclose(found, np.corrcoef(first, second)[:2, 2:])
        with pytest.raises(ValueError, match=r"got \(2, 36\) and \(36,\)"):
            plots.correlate_rdms(first, second[0])

    def test_correlations_of_what_both_rdms_have(self):
        first, second = (np.array([distances(seed=i)] * 6) for i in range(2))
        first[1, :5], second[2, 3:9] = np.nan, np.nan
        first[2] = 0.1  # Constant,
        first[3, 9:] = 7.3  # and where the other is known.
        second[3, :9] = np.nan
        first[4], second[4] = 1e-30 * first[4], 1e30 * second[4] + 5e30
        second[5] = 1 + 1e-7 * second[5]
        found = plots.correlate_rdms(first, second)
        expected = [
            [statistics.rdm_agreement(a, b).pearson for b in second] for a in first
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-7)
        assert np.isnan(found[2]).all() and np.isnan(found[3, 3])
        assert np.isfinite(found[[0, 1, 4, 5]]).all()


class TestPlaces:
    def test_distances_of_points_in_a_plane_are_kept(self):
        x = points()
        found = plots.classical_mds(distance.pdist(x, "sqeuclidean"))
        np.testing.assert_allclose(distance.pdist(found), distance.pdist(x), atol=1e-12)
        np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-12)
        # Also through this library's distances, and as a matrix.
        own = rdm.compute(x, distance=rdm.distances.SquaredEuclidean())
        square = plots.classical_mds(rdm.square(own))
        np.testing.assert_allclose(distance.pdist(square), distance.pdist(x), rtol=1e-4)

    def test_points_of_more_dimensions_are_their_principal_components(self):
        x = points(20, 6)
        found = plots.classical_mds(distance.pdist(x, "sqeuclidean"), dimensions=3)
        u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
        expected = (u * s)[:, :3]
        np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-12)
        assert (found[np.abs(found).argmax(0), range(3)] > 0).all()
        # No other plane leaves less of the distances: the stress of a turned one.
        stress = [
            np.sum(distance.pdist(x, "sqeuclidean") - distance.pdist(p, "sqeuclidean"))
            for p in (found, x[:, :3])
        ]
        assert 0 < stress[0] < stress[1]

    def test_a_missing_pair_counts_as_the_mean(self):
        x = np.random.default_rng(1).uniform(1, 2, 21)
        x[4] = np.nan
        known = np.where(np.isnan(x), np.nanmean(x), x)
        np.testing.assert_array_equal(*map(plots.classical_mds, (x, known)))

    def test_negative_and_equal_distances(self):
        assert np.isfinite(plots.classical_mds(distances() - 3)).all()
        np.testing.assert_allclose(plots.classical_mds(np.zeros(3)), 0)

    def test_places_are_turned_to_the_reference(self):
        x = points()
        angle = np.array([[0.6, 0.8], [0.8, -0.6]])  # Turned and reflected.
        np.testing.assert_allclose(plots.align(2 * x @ angle + 3, x), x, atol=1e-12)
        other = points(seed=1)
        found = plots.align(other, x)
        rotation, _ = linalg.orthogonal_procrustes(other - other.mean(0), x - x.mean(0))
        expected = (other - other.mean(0)) @ rotation
        cosine = np.sum(expected * (found - x.mean(0)))
        cosine /= np.linalg.norm(expected) * np.linalg.norm(found - x.mean(0))
        assert cosine == pytest.approx(1)

    @pytest.mark.parametrize(
        ("function", "words"),
        [
            (lambda: plots.align(points(), points(8)), r"got \(9, 2\) and \(8, 2\)"),
            (lambda: plots.classical_mds(np.ones(3), dimensions=4), "got 4"),
            (lambda: plots.draw_points(points(4, 3)), r"got \(4, 3\)"),
            (lambda: plots.draw_points(points(), labels="abc"), r"3 labels and None"),
            (lambda: plots.draw_points(points(), images=[0]), "1 images"),
            (lambda: plots.cut_out(np.zeros((4, 4, 3))), r"got float64 \(4, 4, 3\)"),
            (lambda: plots.cut_out(np.zeros((4, 4), np.uint8)), r"got uint8 \(4, 4\)"),
        ],
    )
    def test_other_shapes_are_refused(self, function, words):
        with pytest.raises(ValueError, match=words):
            function()


class TestPoints:
    def test_each_class_has_a_colour_and_a_name(self):
        x = points(20)
        labels = np.arange(20) % 10
        axes = plots.draw_points(x, labels=labels)
        looks = set()
        for label, drawn in enumerate(axes.collections):
            np.testing.assert_array_equal(drawn.get_offsets(), x[labels == label])
            shape = len(drawn.get_paths()[0].vertices)
            looks.add((tuple(drawn.get_facecolor()[0]), shape))
        assert len(looks) == len(axes.collections) == 10
        named = texts(axes.get_legend().get_texts())
        assert named == [str(i) for i in range(10)]
        assert axes.get_aspect() == 1

    def test_without_classes_there_is_no_legend(self):
        axes = plots.draw_mds(distances())
        assert len(axes.collections) == 1 and axes.get_legend() is None
        places = plots.classical_mds(distances())
        np.testing.assert_array_equal(axes.collections[0].get_offsets(), places)

    def test_the_scaling_may_be_another(self):
        x = distances()
        axes = plots.draw_mds(x, scaling=lambda given: np.stack([given[:9]] * 2, 1))
        offsets = axes.collections[0].get_offsets()
        np.testing.assert_array_equal(offsets, np.stack([x[:9]] * 2, 1))

    def test_images_stand_at_their_places(self):
        x = points(4)
        images = [np.full((6, 3), 200, np.uint8), np.zeros((3, 6, 1), np.uint8)]
        images += [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)]
        axes = plots.draw_points(x, images=images, labels=list("aabb"), size=0.1)
        side = 0.1 * np.ptp(x, axis=0).max()
        sizes = [(side / 2, side), (side, side / 2), (side, side), (side, side)]
        for drawn, place, size in zip(axes.images, x, sizes, strict=True):
            left, right, bottom, top = drawn.get_extent()
            np.testing.assert_allclose(((left + right) / 2, (bottom + top) / 2), place)
            np.testing.assert_allclose((right - left, top - bottom), size)
        assert axes.images[0].get_clim() == (0, 255)
        frames = [(p.get_x(), p.get_width(), p.get_edgecolor()) for p in axes.patches]
        assert frames[0][0] == pytest.approx(x[0, 0] - side / 4)
        assert frames[0][2] == frames[1][2] != frames[2][2] == frames[3][2]
        axes.figure.canvas.draw()
        (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert (x > [low + side / 2, bottom + side / 2]).all()
        assert (x < [high - side / 2, top - side / 2]).all()

    def test_one_place_for_all_images(self):
        axes = plots.draw_points(np.zeros((2, 2)), images=np.zeros((2, 4, 4)))
        assert len(axes.images) == 2

    def test_the_background_is_cut_out(self):
        image = np.full((4, 4, 1), 100, np.uint8)
        image[1, 2], image[3, 3] = 110, 20
        found = plots.cut_out(image)
        assert found.shape == (4, 4, 4)
        assert np.argwhere(found[..., 3]).tolist() == [[3, 3]]
        np.testing.assert_array_equal(found[..., :3], np.repeat(image, 3, -1))
        assert plots.cut_out(image, tolerance=5)[1, 2, 3] == 255


class TestRdmMap:
    def test_distances_are_one_minus_the_correlation(self):
        rdms = {name: distances(seed=i) for i, name in enumerate("abc")}
        axes = plots.draw_rdm_map(rdms)
        places = np.array([line.get_xydata()[0] for line in axes.lines])
        correlations = np.corrcoef([*rdms.values()])
        # Three points have a plane of their own.
        np.testing.assert_allclose(
            distance.squareform(distance.pdist(places, "sqeuclidean")),
            1 - correlations,
            atol=1e-9,
        )
        assert texts(axes.get_legend().get_texts()) == ["a", "b", "c"]

    def test_layers_are_joined_and_numbered(self):
        net = [distances(seed=i) for i in range(3)]
        rdms = {"net": net, "brain": distances(seed=9)}
        axes = plots.draw_rdm_map(rdms, layers=["stem", "pooled", "logits"])
        assert [len(line.get_xydata()) for line in axes.lines] == [3, 1]
        assert texts(axes.texts) == ["1", "2", "3"]
        np.testing.assert_allclose(axes.texts[1].xy, axes.lines[0].get_xydata()[1])
        assert axes.get_xlabel() == "1 stem, 2 pooled, 3 logits"

    def test_another_scaling_receives_the_pairs(self):
        rdms = {name: distances(seed=i) for i, name in enumerate("abc")}
        given = []

        def line(pairs):
            given.append(pairs)
            return np.eye(3, 2)

        axes = plots.draw_rdm_map(rdms, scaling=line)
        expected = 1 - np.corrcoef([*rdms.values()])[np.triu_indices(3, 1)]
        np.testing.assert_allclose(given, [expected])
        drawn = [shown.get_xydata()[0] for shown in axes.lines]
        np.testing.assert_array_equal(drawn, np.eye(3, 2))

    @pytest.mark.parametrize(
        "rdms",
        [
            {},
            {"a": distances(), "b": distances()},
            {"a": [distances()] * 3, "b": distances(8)},
            {"a": np.ones((3, 2, 36))},
        ],
    )
    def test_other_shapes_are_refused(self, rdms):
        with pytest.raises(ValueError, match="three or more RDMs"):
            plots.draw_rdm_map(rdms)


class TestModels:
    values = {"pixels": 0.2, "plain": [0.4, 0.5, 0.6], "rdl": 0.8}

    def test_points_intervals_and_the_ceiling(self):
        ceiling = statistics.Ceiling(0.7, 0.9)
        intervals = {"plain": (0.3, 0.65), "rdl": (0.75, 0.85)}
        axes = plots.draw_models(self.values, intervals=intervals, ceiling=ceiling)
        drawn = [line.get_xydata().tolist() for line in axes.lines]
        assert [[0, 0.2]] in drawn and [[1, 0.5]] in drawn and [[2, 0.8]] in drawn
        assert [[1, 0.3], [1, 0.65]] in drawn and [[2, 0.75], [2, 0.85]] in drawn
        (seeds,) = (x for x in drawn if len(x) == 3)
        assert [y for _, y in seeds] == self.values["plain"]
        (band,) = axes.patches
        np.testing.assert_allclose((band.get_y(), band.get_height()), (0.7, 0.2))
        assert texts(axes.get_xticklabels()) == ["pixels", "plain", "rdl"]
        assert texts(axes.texts) == ["noise ceiling"]

    def test_a_result_of_inference(self):
        right = distances(30)
        subjects = [right + distances(30, seed=i) for i in range(1, 9)]
        models = {"right": right, "wrong": distances(30, seed=99)}
        result = inference.compare_models(models, np.array(subjects), draws=50)
        assert result.test_pairs()["right", "wrong"] < 0.01
        axes = plots.draw_comparison(result)
        drawn = [line.get_xydata().tolist() for line in axes.lines]
        for place, (name, value) in enumerate(result.values.items()):
            low, high = result.intervals()[name]
            assert [[place, value]] in drawn
            assert [[place, low], [place, high]] in drawn
        words = texts(axes.texts)
        assert words.count("*") == 1 and words[-1].startswith("p ")
        assert axes.get_ylabel() == "similarity (Pearson)"
        assert "*" in texts(plots.draw_comparison(result, alpha=0.99).texts)
        few = texts(plots.draw_comparison(result, alpha=1e-9).texts)
        assert few == ["noise ceiling"]

    def test_brackets_join_models_and_do_not_overlap(self):
        brackets = [
            ("pixels", "rdl", "far"),
            ("plain", "pixels", "*"),
            ("plain", "rdl", "ns"),
        ]
        axes = plots.draw_models(self.values, brackets=brackets, marks={"rdl": "**"})
        joined = [x for x in (line.get_xydata() for line in axes.lines) if len(x) == 4]
        ends = [(round(x[0, 0]), round(x[-1, 0])) for x in joined]
        heights = [x[:, 1].max() for x in joined]
        assert ends == [(0, 1), (1, 2), (0, 2)]
        assert min(heights) > 0.8 and heights == sorted(heights)
        assert len(set(heights)) == 3  # Two that meet at a model are not joined.
        assert texts(axes.texts) == ["**", "*", "ns", "far"]
        assert axes.get_ylim()[1] > max(heights)
        assert axes.get_yticks().max() < min(heights)

    def test_a_value_that_is_missing(self):
        values = {"a": [0.1, np.nan, 0.3], "b": np.nan}
        marks = dict.fromkeys(values, "*")
        axes = plots.draw_models(values, marks=marks, brackets=[("a", "b", "p")])
        assert [[0, 0.2]] in [line.get_xydata().tolist() for line in axes.lines]
        assert texts(axes.texts) == ["*", "p"]

    @pytest.mark.parametrize(
        ("values", "options", "words"),
        [
            ({}, {}, "takes numbers"),
            ({"a": np.ones((2, 2))}, {}, r"got \{'a': \(2, 2\)\}"),
            ({"a": []}, {}, r"got \{'a': \(0,\)\}"),
            ({"a": 1}, {"marks": {"b": "*"}}, r"no values of \['b'\]"),
            ({"a": 1}, {"intervals": {"c": (0, 1)}}, r"no values of \['c'\]"),
            ({"a": 1}, {"brackets": [("a", "d", "*")]}, r"no values of \['d'\]"),
        ],
    )
    def test_what_is_not_a_model_is_refused(self, values, options, words):
        with pytest.raises(ValueError, match=words):
            plots.draw_models(values, **options)


class TestCurves:
    def test_lines_are_means_and_bands_the_range_of_seeds(self):
        values = {"plain": np.random.default_rng(0).random((3, 4)), "one": [1, 2, 3, 4]}
        axes = plots.draw_curves(values, places=list("abcd"), ceiling=(0.7, 0.9))
        plain, one = axes.lines
        np.testing.assert_allclose(plain.get_ydata(), values["plain"].mean(axis=0))
        np.testing.assert_array_equal(one.get_ydata(), values["one"])
        (band,) = axes.collections
        corners = band.get_paths()[0].vertices
        for place in range(4):
            own = corners[corners[:, 0] == place, 1]
            seeds = values["plain"][:, place]
            assert (own.min(), own.max()) == (seeds.min(), seeds.max())
        named = texts(axes.get_legend().get_texts())
        assert named == ["noise ceiling", "plain", "one"]
        assert texts(axes.get_xticklabels()) == list("abcd")
        assert plain.get_color() != one.get_color()

    def test_intervals_are_those_of_scipy(self):
        values = np.random.default_rng(0).random((5, 3))
        expected = [stats.ttest_1samp(x, 0).confidence_interval(0.9) for x in values.T]
        found = plots.t_interval(values, 0.9)
        np.testing.assert_allclose(np.transpose(found), expected)

    def test_a_shorter_line_has_the_first_places(self):
        values = {"teacher": [3, 2], "student": [5, 4, 3]}
        style = {"teacher": {"linestyle": "--", "color": "0.6"}}
        axes = plots.draw_curves(values, places=[1, 2, 3], styles=style, legend=False)
        teacher, student = axes.lines
        assert teacher.get_xydata().tolist() == [[1, 3], [2, 2]]
        assert (teacher.get_linestyle(), teacher.get_color()) == ("--", "0.6")
        assert student.get_color() == plots.COLOURS[0]
        assert axes.get_legend() is None

    def test_missing_values_are_left_out(self):
        values = np.array([[1, np.nan, np.nan], [3, 2, np.nan]])
        axes = plots.draw_curves({"a": values})
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), [2, 2, np.nan])
        low, high = plots.full_range(values)
        np.testing.assert_array_equal(low, [1, 2, np.nan])
        np.testing.assert_array_equal(high, [3, 2, np.nan])

    @pytest.mark.parametrize("epochs", [1, 2])
    def test_one_epoch_is_a_point(self, epochs):
        axes = plots.draw_curves({"a": np.ones((2, epochs))}, places=np.arange(epochs))
        assert (axes.lines[0].get_marker() == "o") == (epochs == 1)

    @pytest.mark.parametrize(
        ("values", "places"),
        [({}, None), ({"a": np.ones((2, 2, 2))}, None), ({"a": [1, 2]}, ["x"])],
    )
    def test_other_shapes_are_refused(self, values, places):
        with pytest.raises(ValueError, match="draw_curves takes values"):
            plots.draw_curves(values, places=places)


MAP = {"net": [distances(), distances(seed=2)], "brain": distances(seed=1)}
BRACKET = [("pixels", "rdl", "*")]
DRAWINGS = {
    "rdm": lambda: plots.draw_rdm(distances(), labels=list("aaabbbccc")).figure,
    "rdms": lambda: plots.draw_rdms(
        {"a": distances(), "b": distances(seed=1)}, reference="a"
    ),
    "points": lambda: plots.draw_points(points(), labels=list("aaabbbccc")).figure,
    "map": lambda: plots.draw_rdm_map(MAP, layers=["first", "second"]).figure,
    "similarity": lambda: plots.draw_similarity(np.eye(3), rows=list("abc")).figure,
    "models": lambda: plots.draw_models(TestModels.values, brackets=BRACKET).figure,
    "curves": lambda: plots.draw_curves({"a": [1, 2]}, label="r").figure,
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_text_can_be_read_on_a_light_figure(name):
    with matplotlib.rc_context({"figure.facecolor": "black"}):
        figure = DRAWINGS[name]()
    assert min(sizes_of_text(figure)) >= 8
    assert figure.get_facecolor() == (1, 1, 1, 1)


def test_without_matplotlib_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(errors.MissingPackage, match=r'install "rdljax\[plots\]"$'):
        plots.draw_rdm(distances())
    assert plots.percentiles(distances()).max() == 100
