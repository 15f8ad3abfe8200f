"""Measured RDMs: what files hold, what is refused, and how subjects are combined."""

import sys

import h5py
import numpy as np
import pytest
from scipy.spatial import distance

from rdljax import errors, rdm, statistics

N, PAIRS = 6, 15


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0.1, 2, (*shape, PAIRS))


def squares(condensed):
    flat = condensed.reshape(-1, PAIRS)
    found = np.stack([distance.squareform(one) for one in flat])
    return found.reshape(*condensed.shape[:-1], N, N)


class TestFiles:
    @pytest.mark.parametrize("square", [False, True], ids=["pairs", "squares"])
    @pytest.mark.parametrize("shape", [(), (4,), (4, 2)], ids=["one", "four", "twice"])
    def test_every_shape_of_an_npz(self, tmp_path, shape, square):
        x = drawn(*shape)
        np.savez(tmp_path / "a.npz", it=squares(x) if square else x, other=np.ones(3))
        found = rdm.io.read(tmp_path / "a.npz", "it").distances
        subjects, sessions = (*shape, 1, 1)[:2] if shape else (1, 1)
        np.testing.assert_allclose(found, x.reshape(subjects, sessions, PAIRS))

    def test_names_of_stimuli_are_read_and_compared(self, tmp_path):
        names = [f"s{i}" for i in range(N)]
        np.savez(tmp_path / "a.npz", it=drawn(), stimuli=names)
        found = rdm.io.read(tmp_path / "a.npz", stimuli=names)
        assert found.stimuli == tuple(names)
        with pytest.raises(
            errors.CannotRead, match="in another order: s0 comes where s1 is expected"
        ):
            rdm.io.read(tmp_path / "a.npz", stimuli=["s1", "s0", *names[2:]])
        with pytest.raises(errors.CannotRead, match="other stimuli.*, s0"):
            rdm.io.read(tmp_path / "a.npz", stimuli=["x", *names[1:]])
        np.savez(tmp_path / "b.npz", it=drawn(), stimuli=[x.encode() for x in names])
        assert rdm.io.read(tmp_path / "b.npz", stimuli=names).stimuli == found.stimuli
        np.savez(tmp_path / "c.npz", it=drawn())
        with pytest.raises(errors.CannotRead, match="no names to compare"):
            rdm.io.read(tmp_path / "c.npz", stimuli=names)
        assert rdm.io.read(tmp_path / "c.npz", stimuli=np.int64(N)).stimuli is None
        np.savez(tmp_path / "d.npz", it=drawn(2), subjects=["a", "b", "c"])
        with pytest.raises(errors.CannotRead, match="2 subjects and 3 names"):
            rdm.io.read(tmp_path / "d.npz", "it")

    def test_rounding_on_a_diagonal(self):
        x = drawn()
        square = squares(x[None])[0] + 1e-12 * np.eye(N)
        np.testing.assert_allclose(rdm.io.from_array(square), x[None, None])

    def test_a_damaged_file(self, tmp_path):
        np.savez_compressed(tmp_path / "a.npz", it=drawn(4, 2))
        whole, rng = (tmp_path / "a.npz").read_bytes(), np.random.default_rng(0)
        for _ in range(60):
            bad = bytearray(whole)
            for place in rng.integers(len(bad), size=3):
                bad[place] = rng.integers(256)
            (tmp_path / "b.npz").write_bytes(bad)
            try:
                rdm.io.read(tmp_path / "b.npz", "it", missing=True, signed=True)
            except (errors.CannotRead, errors.UnknownName) as error:
                assert "b.npz" in str(error)

    def test_what_rsatoolbox_saved(self, tmp_path):
        rsatoolbox = pytest.importorskip("rsatoolbox")
        x = drawn(5)
        rdms = rsatoolbox.rdm.RDMs(
            x,
            rdm_descriptors={"subj": list("aabbc"), "session": [1, 2, 1, 2, 2]},
            pattern_descriptors={"conds": [f"s{i}" for i in range(N)]},
        )
        rdms.save(str(tmp_path / "a.h5"))
        found = rdm.io.read(tmp_path / "a.h5", stimuli=N)
        assert found.subjects == ("a", "b", "c") and found.stimuli[0] == "s0"
        np.testing.assert_array_equal(found.distances[0], x[:2])
        np.testing.assert_array_equal(found.distances[2, 1], x[4])
        assert np.isnan(found.distances[2, 0]).all()
        np.testing.assert_allclose(rdm.subjects.mean_over_sessions(found)[2], x[4])

    def test_what_all_share_stands_in_the_object(self, tmp_path):
        """As `rsatoolbox.rdm.concat` leaves it, and tuples are HDF5 attributes."""
        rsatoolbox = pytest.importorskip("rsatoolbox")
        x = drawn(3)
        names = tuple(f"s{i}" for i in range(N))
        single = [
            rsatoolbox.rdm.RDMs(
                x[i : i + 1],
                descriptors={"Participant": "ann", "ses": f"day{i}", "rate": 0.5},
                pattern_descriptors={"condition": list("aabbcc"), "stim": names},
            )
            for i in range(3)
        ]
        rsatoolbox.rdm.concat(single).save(str(tmp_path / "a.h5"))
        found = rdm.io.read(tmp_path / "a.h5", stimuli=names)
        assert found.subjects == ("ann",) and found.stimuli == names
        np.testing.assert_array_equal(found.distances, x[None])
        pairs = [np.corrcoef(x[i], x[j])[0, 1] for i, j in ((0, 1), (0, 2), (1, 2))]
        np.testing.assert_allclose(rdm.subjects.reliability(found), [np.mean(pairs)])

    @pytest.mark.parametrize(
        ("shared", "of_rdms", "subjects", "sessions"),
        [
            ({"subj": ("ann",)}, {"run": ("3", "4")}, ("ann",), 2),
            ({"session": 4}, {"sub": ("b", "a")}, ("b", "a"), 1),
            # (A descriptor of two values for all RDMs is no name of theirs.)
            ({"tags": ("p", "q")}, {"ses": np.array([2, 1])}, ("0",), 2),
            ({"subject": None}, {}, ("0", "1"), 1),
            ({}, {"subject": ["a", "b"], "age": [31, 28]}, ("a", "b"), 1),
        ],
    )
    def test_descriptors_of_the_object_and_of_each(
        self, tmp_path, shared, of_rdms, subjects, sessions
    ):
        rsatoolbox = pytest.importorskip("rsatoolbox")
        x = drawn(2)
        rsatoolbox.rdm.RDMs(x, descriptors=shared, rdm_descriptors=of_rdms).save(
            str(tmp_path / "a.h5")
        )
        found = rdm.io.read(tmp_path / "a.h5")
        assert found.subjects == subjects and found.stimuli is None
        shape = len(subjects), sessions, PAIRS
        np.testing.assert_array_equal(found.distances, x.reshape(shape))

    @pytest.mark.parametrize(
        ("of_rdms", "words"),
        [
            (
                {"ROI": ["V1", "IT"]},
                r"they differ in 'ROI' \(V1, IT\), which is neither a sub",
            ),
            ({"model": ("a", "b")}, r"rdms.subset\('model', 'a'\).save"),
            (
                {"subject": ["a", "a"], "session": [1, 1], "t": [0.1, 0.2]},
                r"several RDMs of subject a, session 1: they differ in 't' \(0.1, 0.2",
            ),
            ({"ses": [1, 1]}, "several RDMs of subject 0, session 1$"),
        ],
        ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
    )
    def test_what_differs_in_something_else_is_refused(self, tmp_path, of_rdms, words):
        rsatoolbox = pytest.importorskip("rsatoolbox")
        rdms = rsatoolbox.rdm.RDMs(drawn(2), rdm_descriptors=of_rdms)
        rdms.save(str(tmp_path / "a.h5"))
        with pytest.raises(errors.CannotRead, match=words):
            rdm.io.read(tmp_path / "a.h5")
        if "ROI" in of_rdms:
            # What the message says to do.
            rdms.subset("ROI", "IT").save(str(tmp_path / "b.h5"))
            found = rdm.io.read(tmp_path / "b.h5").distances
            np.testing.assert_array_equal(found[0], drawn(2)[1:])

    def test_upper_case_and_the_home_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        rdms = rdm.io.Rdms(drawn(2, 1), ("a", "b"))
        rdm.io.write(rdms, "~/A.H5")
        assert [path.name for path in tmp_path.iterdir()] == ["A.H5"]
        assert rdm.io.read("~/A.H5").subjects == ("a", "b")
        with pytest.raises(
            errors.CannotRead, match="without a name, got the name 'it'"
        ):
            rdm.io.read("~/A.H5", "it")
        with open(tmp_path / "~kept.NPZ", "wb") as file:
            np.savez(file, it=drawn())
        assert rdm.io.read("~kept.NPZ", "it").distances.shape == (1, 1, PAIRS)

    def test_writing_says_which_extra_it_takes(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "h5py", None)
        words = r'a\.h5 needs the package h5py: .*"rdljax\[weights\]"'
        with pytest.raises(errors.CannotRead, match=words):
            rdm.io.write(rdm.io.Rdms(drawn(2, 1)), tmp_path / "a.h5")

    def test_what_is_written_rsatoolbox_reads(self, tmp_path):
        rsatoolbox = pytest.importorskip("rsatoolbox")
        names = tuple(f"s{i}" for i in range(N))
        rdms = rdm.io.Rdms(drawn(2, 3), ("ann", "bob"), names)
        rdm.io.write(rdms, tmp_path / "a.h5", "correlation")
        theirs = rsatoolbox.rdm.load_rdm(str(tmp_path / "a.h5"))
        np.testing.assert_array_equal(
            theirs.dissimilarities, rdms.distances.reshape(6, PAIRS)
        )
        assert theirs.dissimilarity_measure == "correlation"
        assert list(theirs.pattern_descriptors["stimulus"]) == list(names)
        assert list(theirs.rdm_descriptors["subject"]) == ["ann"] * 3 + ["bob"] * 3
        ours = rdm.io.read(tmp_path / "a.h5")
        np.testing.assert_array_equal(ours.distances, rdms.distances)
        assert ours[1:] == rdms[1:]
        (tmp_path / "link.h5").symlink_to(tmp_path / "absent.h5")
        for name in ("a.h5", "link.h5"):
            with pytest.raises(FileExistsError, match=f"there is a file .*{name}"):
                rdm.io.write(rdms, tmp_path / name)

    def test_names_that_are_no_text_stay_apart(self, tmp_path):
        rdm.io.write(rdm.io.Rdms(drawn(2, 1), ("ann", "bob")), tmp_path / "a.h5")
        with h5py.File(tmp_path / "a.h5", "a") as file:
            del file["rdm_descriptors/subject"]
            file["rdm_descriptors/subject"] = np.array([b"\xb4", b"\xb5"])
        assert rdm.io.read(tmp_path / "a.h5").subjects == (r"\xb4", r"\xb5")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "there is no file"),
            (b"no file of arrays", "is not an .npz file"),
            ({"a": np.ones(PAIRS), "b": np.ones(PAIRS)}, "has 2 arrays, a, b: sel"),
            ({"a": np.array(["x"] * PAIRS)}, "expected numbers, got <U1"),
            ({"a": np.array([{}] * PAIRS)}, "is not an .npz file"),
            ({"a": np.ones(14)}, "no condensed RDM has 14 distances"),
            ({"a": drawn(7)[:, :7]}, "no condensed RDM.*a diagonal of 0"),
            ({"a": np.ones((1, 1, 1, PAIRS))}, r"or squares.*\(1, 1, 1, 15\)"),
            ({"a": np.triu(np.ones((N, N)), 1)}, "symmetric, here.*differ by 1"),
            ({"a": np.eye(10) + np.ones((10, 10))}, "diagonal of 0, here it reaches 2"),
            ({"a": np.r_[np.nan, np.ones(14)]}, "NaN or infinity for 1 of 15.*0 and 1"),
            ({"a": np.r_[np.ones(14), np.inf]}, "infinity for 1 of 15.*of stimuli 4"),
            ({"a": np.r_[-0.5, np.ones(14)]}, "0 or more, got -0.5, 1 of 15 are below"),
        ],
        ids=lambda x: x.replace(" ", "-") if isinstance(x, str) else "file",
    )
    def test_what_is_no_rdm_is_refused_by_name(self, tmp_path, content, message):
        path = tmp_path / "a.npz"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            np.savez(path, **content)
        with pytest.raises(errors.CannotRead, match=message):
            rdm.io.read(path)

    def test_what_is_no_file_of_rsatoolbox(self, tmp_path):
        h5py = pytest.importorskip("h5py")
        (tmp_path / "a.h5").write_bytes(b"nothing")
        with pytest.raises(errors.CannotRead, match="a.h5 is not an HDF5 file"):
            rdm.io.read(tmp_path / "a.h5")
        with h5py.File(tmp_path / "b.h5", "w") as file:
            file["x"] = np.ones(3)
        with pytest.raises(errors.CannotRead, match="no dissimilarities"):
            rdm.io.read(tmp_path / "b.h5")
        with h5py.File(tmp_path / "c.h5", "w") as file:
            file["dissimilarities"] = drawn(2)
            file.create_group("rdm_descriptors")["subject"] = np.array([b"a", b"a"])
        with pytest.raises(errors.CannotRead, match="several RDMs of subject a"):
            rdm.io.read(tmp_path / "c.h5")

    def test_other_names_and_numbers(self, tmp_path):
        np.savez(tmp_path / "a.npz", human_it=drawn())
        with pytest.raises(errors.UnknownName, match="human_it"):
            rdm.io.read(tmp_path / "a.npz", "human_i")
        with pytest.raises(errors.CannotRead, match="expected 7 stimuli, got 6"):
            rdm.io.read(tmp_path / "a.npz", stimuli=7)
        x = drawn(2)
        x[1] = np.nan
        with pytest.raises(errors.CannotRead, match="a subject without any distance"):
            rdm.io.check(rdm.io.Rdms(x[:, None]), missing=True)
        rdm.io.write(rdm.io.Rdms(drawn(1, 1)), tmp_path / "a.h5")
        with pytest.raises(
            errors.CannotRead, match="without a name, got the name 'it'"
        ):
            rdm.io.read(tmp_path / "a.h5", "it")
        for places in ([1, 1, 2], [3]):
            with pytest.raises(ValueError, match="two stimuli or more, each once"):
                rdm.subjects.select(rdm.io.Rdms(drawn(1, 1)), places)

    def test_missing_pairs_and_signed_distances_where_they_are_meant(self, tmp_path):
        x = drawn(2)
        x[0, 3], x[1, 4] = np.nan, -0.1
        np.savez(tmp_path / "a.npz", it=x)
        found = rdm.io.read(tmp_path / "a.npz", missing=True, signed=True)
        np.testing.assert_array_equal(found.distances[:, 0], x)


class TestCombined:
    def test_means_and_reliability(self):
        x = drawn(3, 2)
        rdms = rdm.io.Rdms(x)
        np.testing.assert_allclose(rdm.subjects.mean_over_sessions(rdms), x.mean(1))
        np.testing.assert_allclose(
            rdm.subjects.mean_over_subjects(rdms), x.mean((0, 1))
        )
        weights = np.array([1.0, 0.0, 3.0])
        expected = np.average(x.mean(1), axis=0, weights=weights)
        np.testing.assert_allclose(
            rdm.subjects.mean_over_subjects(rdms, weights), expected
        )
        np.testing.assert_allclose(
            rdm.subjects.reliability(rdms), [np.corrcoef(*one)[0, 1] for one in x]
        )
        others = [np.delete(x.mean(1), i, 0).mean(0) for i in range(3)]
        np.testing.assert_allclose(
            rdm.subjects.agreement_with_others(rdms),
            [np.corrcoef(*two)[0, 1] for two in zip(x.mean(1), others, strict=True)],
        )

    def test_what_is_missing_is_left_out(self):
        x = drawn(3, 2)
        x[0, 0, 3] = x[0, 1, 4] = np.nan
        x[:, :, 7] = np.nan
        rdms = rdm.io.Rdms(x)
        mean = rdm.subjects.mean_over_subjects(rdms)
        assert np.isnan(mean[7]) and np.isfinite(np.delete(mean, 7)).all()
        expected = np.mean([x[0, 1, 3], *x[1:, :, 3].mean(1)])
        np.testing.assert_allclose(mean[3], expected)
        weighted = rdm.subjects.mean_over_subjects(rdms, np.ones(3))
        np.testing.assert_allclose(weighted, mean)
        both = ~np.isnan(x[0]).any(0)
        np.testing.assert_allclose(
            rdm.subjects.reliability(rdms)[0], np.corrcoef(x[0][:, both])[0, 1]
        )

    def test_a_single_session_has_no_reliability(self):
        assert np.isnan(rdm.subjects.reliability(rdm.io.Rdms(drawn(2, 1)))).all()
        with pytest.raises(ValueError, match="two subjects or more"):
            rdm.subjects.agreement_with_others(rdm.io.Rdms(drawn(1, 2)))

    @pytest.mark.parametrize("weights", [[1, 1], [0, 0, 0], [1, 1, -1]], ids=str)
    def test_wrong_weights(self, weights):
        with pytest.raises(ValueError, match="each of 3 subjects"):
            rdm.subjects.mean_over_subjects(rdm.io.Rdms(drawn(3, 2)), weights)

    def test_selected_stimuli_and_a_shuffled_control(self):
        names = tuple("abcdef")
        rdms = rdm.io.Rdms(drawn(2, 1), None, names)
        found = rdm.subjects.select(rdms, [4, 0, 3])
        square = squares(rdms.distances)[:, :, [4, 0, 3]][..., [4, 0, 3]]
        np.testing.assert_allclose(found.distances, square[..., *np.triu_indices(3, 1)])
        assert found.stimuli == ("e", "a", "d")
        control = rdm.subjects.shuffle(rdms, seed=1)
        assert control.stimuli == names
        assert (control.distances != rdms.distances).any()
        np.testing.assert_allclose(np.sort(control.distances), np.sort(rdms.distances))
        # The subjects agree as before.
        np.testing.assert_allclose(
            *(np.corrcoef(x.distances[:, 0])[0, 1] for x in (control, rdms))
        )


class TestKriegeskorte:
    """The values that are known of the 92 images (Kriegeskorte et al. 2008)."""

    def test_human_and_monkey(self, brain_file):
        human = rdm.io.read(brain_file, "human_it_subject_session", stimuli=92)
        monkey = rdm.io.read(brain_file, "monkey_it", stimuli=92).distances[0, 0]
        mean = rdm.subjects.mean_over_subjects(human)
        pearson, _ = statistics.rdm_agreement(mean, monkey)
        assert pearson == pytest.approx(0.491, abs=5e-4)
        given = rdm.io.read(brain_file, "human_it").distances[0, 0]
        np.testing.assert_allclose(mean, given, atol=1e-6)

    def test_sessions_and_subjects(self, brain_file):
        human = rdm.io.read(brain_file, "human_it_subject_session")
        np.testing.assert_allclose(
            rdm.subjects.reliability(human), [0.29, 0.10, 0.40, 0.12], atol=5e-3
        )
        np.testing.assert_allclose(
            rdm.subjects.agreement_with_others(human),
            [0.46, 0.31, 0.45, 0.36],
            atol=5e-3,
        )

    def test_animacy(self, brain_file):
        mean = rdm.io.read(brain_file, "human_it").distances[0, 0]
        with np.load(brain_file) as arrays:
            animate = arrays["animate"]
        model = distance.pdist(animate[:, None], "hamming")
        _, spearman = statistics.rdm_agreement(mean, model)
        assert spearman == pytest.approx(0.588, abs=5e-4)
