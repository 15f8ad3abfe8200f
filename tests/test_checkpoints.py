"""`rdljax.checkpoints`: what is saved comes back bit by bit, or by a named error."""

import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from rdljax import checkpoints, files


class State(NamedTuple):
    step: Any
    params: Any
    optimizer: Any
    key: Any


def adam() -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(0.1, 100)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


@jax.jit
def state(seed: int = 0) -> State:
    key = jax.random.key(seed)
    params = {
        "stem": {"kernel": jax.random.normal(key, (3, 16)), "bias": jnp.zeros(16)},
        "head": {"kernel": jax.random.normal(key, (16, 4)).astype(jnp.bfloat16)},
    }
    return State(jnp.int32(seed), params, adam().init(params), key)


def same(first: Any, second: Any) -> None:
    """Asserts equal structure, and leaves equal in kind, dtype and every byte."""
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert isinstance(b, jax.Array) == isinstance(a, jax.Array)
        if not isinstance(a, jax.Array):
            assert type(a) is type(b)
        if checkpoints._is_key(a):
            assert jax.random.key_impl(a) == jax.random.key_impl(b)
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.tobytes() == b.tobytes()


def test_a_training_state_comes_back_bit_by_bit(tmp_path):
    saved = state(3)
    checkpoints.save(tmp_path, 3, saved, {"net": "mlp", "accuracy": 0.5})
    restored, about, step = checkpoints.restore(tmp_path, state(0))
    same(saved, restored)
    assert about == {"net": "mlp", "accuracy": 0.5}
    assert step == 3


def test_every_kind_of_leaf_and_of_branch_comes_back(tmp_path):
    saved = {
        "numpy": np.arange(6, dtype=np.float64).reshape(2, 3),
        "numpy scalar": np.int16(-7),
        "transposed": np.arange(6, dtype=np.int64).reshape(2, 3).T,
        "python": [True, 7, 0.1, 1j],
        "odd/name.é['x']": (jnp.float32(-0.0), jnp.array([jnp.inf, -jnp.inf, jnp.nan])),
        "nothing": (None, {}, (), [], optax.EmptyState()),
        "no elements": (np.zeros((0, 3), np.int8), jnp.zeros((2, 0), jnp.bfloat16)),
        "no keys": jax.random.split(jax.random.key(0), 4)[:0],
        "subnormal": jnp.array([1e-45, -1e-40], jnp.float32),
    }
    checkpoints.save(tmp_path, 0, saved, {})
    same(saved, checkpoints.restore(tmp_path, saved)[0])


@pytest.mark.parametrize(
    "dtype",
    [jnp.bool, jnp.int4, jnp.int8, jnp.int16, jnp.int32]
    + [jnp.uint8, jnp.uint16, jnp.uint32, jnp.complex64]
    + [jnp.float8_e4m3fn, jnp.float16, jnp.bfloat16, jnp.float32],
)
def test_every_dtype_comes_back(tmp_path, dtype):
    saved = {"jax": jnp.arange(8).astype(dtype), "numpy": np.ones((2, 2), dtype)}
    checkpoints.save(tmp_path, 0, saved, {})
    same(saved, checkpoints.restore(tmp_path, saved)[0])


@pytest.mark.parametrize("dtype", [">f4", ">i8", ">c16", "bfloat16"])
def test_the_other_order_of_bytes_comes_back_in_this_machines(tmp_path, dtype):
    values = np.array([[1.5, -2, 300], [0, 5, -6.25]])
    dtype = jnp.dtype(dtype).newbyteorder(">")
    saved = {"x": values.astype(dtype), "of no axis": np.full((), 3, dtype)}
    saved["transposed"] = saved["x"].T
    assert not any(leaf.dtype.isnative for leaf in saved.values())
    checkpoints.save(tmp_path, 0, saved, {})
    native = {k: x.astype(dtype.newbyteorder("=")) for k, x in saved.items()}
    for like in (saved, native):
        same(native, checkpoints.restore(tmp_path, like)[0])
    np.testing.assert_array_equal(native["x"][0, 2], 300)


def test_a_state_may_be_one_array(tmp_path):
    checkpoints.save(tmp_path, 0, jnp.arange(3), {})
    same(jnp.arange(3), checkpoints.restore(tmp_path, jnp.zeros(3, jnp.int32))[0])


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_typed_keys_go_on_where_they_were(tmp_path, impl):
    saved = jax.random.split(jax.random.key(5, impl=impl), (2, 3))
    like = jax.random.split(jax.random.key(0, impl=impl), (2, 3))
    checkpoints.save(tmp_path, 0, saved, {})
    abstract = jax.ShapeDtypeStruct(like.shape, like.dtype)
    for form in (like, abstract):
        restored, _, _ = checkpoints.restore(tmp_path, form)
        same(saved, restored)
        draw = jax.vmap(jax.vmap(jax.random.uniform))
        np.testing.assert_array_equal(draw(restored), draw(saved))


def test_like_may_be_abstract_and_is_never_read(tmp_path):
    saved = state(1)
    checkpoints.save(tmp_path, 0, saved, {})
    same(saved, checkpoints.restore(tmp_path, jax.eval_shape(state))[0])
    donated = state(2)
    jax.tree.map(lambda leaf: leaf.delete(), donated)
    same(saved, checkpoints.restore(tmp_path, donated)[0])


def test_no_64_bit_number_is_cast_where_jax_has_32_bits(tmp_path):
    saved = np.array([1 / 3, 2**40 + 0.5])
    checkpoints.save(tmp_path, 0, saved, {})
    restored, _, _ = checkpoints.restore(
        tmp_path, jax.ShapeDtypeStruct((2,), np.dtype("float64"))
    )
    same(saved, restored)


def test_64_bit_jax_arrays_come_back(tmp_path, float64):
    saved = jnp.array([1 / 3, 2**40 + 0.5])
    assert saved.dtype == np.float64
    checkpoints.save(tmp_path, 0, saved, {})
    same(saved, checkpoints.restore(tmp_path, saved)[0])


def test_a_weakly_typed_scalar_stays_weak(tmp_path):
    saved = {"weak": jnp.asarray(0.1), "strong": jnp.float32(0.1)}
    checkpoints.save(tmp_path, 0, saved, {})
    restored, _, _ = checkpoints.restore(tmp_path, saved)
    same(saved, restored)
    half = jnp.ones((), jnp.bfloat16)
    assert (restored["weak"] * half).dtype == jnp.bfloat16
    assert (restored["strong"] * half).dtype == jnp.float32


def train(state: State, batch: jax.Array) -> tuple[State, jax.Array]:
    def loss(params):
        bias = params["stem"]["bias"][None]
        hidden = jnp.tanh(batch @ params["stem"]["kernel"] + bias)
        return jnp.mean((hidden @ params["head"]["kernel"]) ** 2)

    value, gradients = jax.value_and_grad(loss)(state.params)
    gradients = jax.lax.pmean(gradients, "devices")
    updates, optimizer = adam().update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    key, _ = jax.random.split(state.key)
    value = jax.lax.pmean(value, "devices")
    return State(state.step + 1, params, optimizer, key), value


def test_a_state_replicated_by_pmap_resumes_in_pmap_to_the_byte(tmp_path):
    step = jax.pmap(train, axis_name="devices", in_axes=(None, 0), out_axes=None)
    batch = jax.random.normal(jax.random.key(1), (jax.device_count(), 5, 3))
    saved, _ = step(state(), batch)
    assert len(saved.params["stem"]["kernel"].devices()) == 8
    checkpoints.save(tmp_path, 1, saved, {})
    restored, _, _ = checkpoints.restore(tmp_path, state())
    same(saved, restored)
    assert not any(leaf.committed for leaf in jax.tree.leaves(restored))
    same(step(saved, batch), step(restored, batch))


def test_arrays_sharded_over_the_devices_come_back_whole(tmp_path):
    fill = jax.pmap(lambda key: jax.random.normal(key, (2, 3)))
    saved = fill(jax.random.split(jax.random.key(0), jax.device_count()))
    assert not saved.is_fully_replicated
    checkpoints.save(tmp_path, 0, {"bank": saved}, {})
    like = {"bank": jax.ShapeDtypeStruct(saved.shape, saved.dtype)}
    restored, _, _ = checkpoints.restore(tmp_path, like)
    same({"bank": saved}, restored)
    double = jax.pmap(lambda bank: 2 * bank)
    np.testing.assert_array_equal(double(restored["bank"]), 2 * np.asarray(saved))


STORED = {"a": {"kernel": jnp.ones((2, 3))}, "count": jnp.int32(1)}


def test_an_array_that_is_not_the_hashed_one_is_seen(tmp_path):
    checkpoints.save(tmp_path, 0, STORED, {})
    text = tmp_path / "0" / "manifest.json"
    manifest = json.loads(text.read_text())
    next(iter(manifest["leaves"].values()))["sha256"] = "0" * 64
    manifest["sha256"] = files.sha256_of_manifest(manifest)
    text.write_text(json.dumps(manifest))
    with pytest.raises(checkpoints.CheckpointDamaged, match="was changed"):
        checkpoints.restore(tmp_path, STORED)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (
            {"a": {"kernel": jnp.ones((3, 2))}, "count": jnp.int32(1)},
            r"\['a'\]\['kernel'\]: stored float32\[2, 3\], expected float32\[3, 2\]",
        ),
        (
            {"a": {"kernel": jnp.ones((2, 3), jnp.bfloat16)}, "count": jnp.int32(1)},
            r"\['kernel'\]: stored float32\[2, 3\], expected bfloat16\[2, 3\]",
        ),
        (
            {"a": {"kernel": np.ones((2, 3))}, "count": jnp.int32(1)},
            r"\['kernel'\]: stored float32\[2, 3\], expected float64\[2, 3\]",
        ),
        (
            {"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "count": 1},
            r"(?s)\['a'\]\['bias'\]: stored nothing, expected float32\[3\].*"
            r"\['count'\]: stored int32\[\], expected int64\[\]",
        ),
        (
            {"a": {"kernel": jnp.ones((2, 3))}},
            r"\['count'\]: stored int32\[\], expected nothing",
        ),
        (
            {"a": {"kernel": None}, "count": jnp.int32(1)},
            r"\['a'\]\['kernel'\]: stored float32\[2, 3\], expected nothing",
        ),
        (
            {"a": [jnp.ones((2, 3))], "count": jnp.int32(1)},
            r"(?s)\['a'\]\[0\]: stored nothing.*\['kernel'\].*expected nothing",
        ),
        (jnp.ones(3), r"the state: stored nothing, expected float32\[3\]"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, like, message):
    checkpoints.save(tmp_path, 7, STORED, {})
    with pytest.raises(checkpoints.CheckpointMismatch, match=message) as caught:
        checkpoints.restore(tmp_path, like)
    assert isinstance(caught.value, ValueError)
    assert str(tmp_path / "7") in str(caught.value)


def test_only_what_differs_is_named(tmp_path):
    checkpoints.save(tmp_path, 0, STORED, {})
    with pytest.raises(checkpoints.CheckpointMismatch) as caught:
        checkpoints.restore(tmp_path, STORED | {"count": jnp.zeros(2)})
    assert "count" in str(caught.value)
    assert "kernel" not in str(caught.value)


def test_a_key_of_another_kind_does_not_fit(tmp_path):
    # The words of both kinds have one shape; only the description tells them apart.
    checkpoints.save(tmp_path, 0, {"key": jax.random.key(0, impl="rbg")}, {})
    for other in (jax.random.key(0, impl="unsafe_rbg"), jnp.zeros(4, jnp.uint32)):
        with pytest.raises(checkpoints.CheckpointMismatch, match=r"stored key<rbg>"):
            checkpoints.restore(tmp_path, {"key": other})


def test_a_newer_format_is_refused(tmp_path):
    checkpoints.save(tmp_path, 0, STORED, {})
    text = tmp_path / "0" / "manifest.json"
    manifest = json.loads(text.read_text()) | {"format": 3}
    text.write_text(json.dumps(manifest))
    with pytest.raises(checkpoints.CheckpointDamaged, match="manifest was changed"):
        checkpoints.restore(tmp_path, STORED)
    manifest["sha256"] = files.sha256_of_manifest(manifest)
    text.write_text(json.dumps(manifest))
    with pytest.raises(checkpoints.CheckpointMismatch, match="format 3.* format 2"):
        checkpoints.restore(tmp_path, STORED)


def test_the_first_format_is_named(tmp_path):
    checkpoints.save(tmp_path, 0, STORED, {})
    (tmp_path / "0" / "manifest.json").unlink()
    (tmp_path / "0" / "about").mkdir()
    with pytest.raises(checkpoints.CheckpointMismatch, match="format 1, .* format 2"):
        checkpoints.restore(tmp_path, STORED)


def test_like_may_follow_from_what_is_told(tmp_path):
    for rows in (2, 3):
        checkpoints.save(tmp_path, rows, {"x": jnp.ones(rows)}, {"rows": rows})
    like = lambda about: {"x": jnp.zeros(about["rows"])}  # noqa: E731
    for step in (None, 2):
        restored, about, found = checkpoints.restore(tmp_path, like, step)
        same({"x": jnp.ones(found)}, restored)


def test_where_nothing_is_stored_the_folder_is_named(tmp_path):
    for empty in (tmp_path, tmp_path / "missing"):
        assert checkpoints.latest(empty) is None
        with pytest.raises(FileNotFoundError, match=str(empty)):
            checkpoints.restore(empty, STORED)
    assert not (tmp_path / "missing").exists()


def test_the_two_newest_steps_are_kept(tmp_path):
    for step in (2, 9, 10, 100):
        checkpoints.save(tmp_path, step, {"x": jnp.full(2, step)}, {"step": step})
        assert checkpoints.latest(tmp_path) == step
    assert sorted(int(folder.name) for folder in tmp_path.iterdir()) == [10, 100]
    restored, about, step = checkpoints.restore(tmp_path, {"x": jnp.zeros(2, int)}, 10)
    same({"x": jnp.full(2, 10)}, restored)
    assert (about, step) == ({"step": 10}, 10)
    with pytest.raises(FileNotFoundError, match=r"no step 9, it has steps \[10, 100\]"):
        checkpoints.restore(tmp_path, {"x": jnp.zeros(2, int)}, 9)


def test_an_old_step_whose_removal_is_cut_short_is_gone_at_once(tmp_path, monkeypatch):
    remove = shutil.rmtree

    def cut_short(folder, **options):
        if any(pathlib.Path(folder).iterdir() if folder.exists() else ()):
            raise KeyboardInterrupt
        remove(folder, **options)

    for step in (1, 2):
        checkpoints.save(tmp_path, step, STORED, {})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", cut_short)
        checkpoints.save(tmp_path, 3, STORED, {})
    with pytest.raises(FileNotFoundError, match=r"no step 1, it has steps \[2, 3\]"):
        checkpoints.restore(tmp_path, STORED, 1)
    checkpoints.save(tmp_path, 4, STORED, {})
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["3", "4"]


def test_a_step_below_the_newest_is_stored_too(tmp_path):
    for step in (5, 6, 3):
        checkpoints.save(tmp_path, step, {"x": jnp.full(2, step)}, {})
    restored, _, _ = checkpoints.restore(tmp_path, {"x": jnp.zeros(2, int)}, 3)
    same({"x": jnp.full(2, 3)}, restored)
    assert checkpoints.latest(tmp_path) == 6


def test_numbered_folders_that_are_no_checkpoints_are_left_alone(tmp_path):
    for stray in ("1", "50", "70.orbax-checkpoint-tmp"):
        (tmp_path / stray / "state").mkdir(parents=True)
        (tmp_path / stray / "notes.txt").write_text("mine")
    (tmp_path / "60").write_text("a file")
    assert checkpoints.latest(tmp_path) is None
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        checkpoints.restore(tmp_path, STORED)
    for step in (10, 20, 30):
        checkpoints.save(tmp_path, step, STORED, {})
    assert checkpoints.latest(tmp_path) == 30
    assert checkpoints.restore(tmp_path, STORED)[2] == 30
    names = sorted(folder.name for folder in tmp_path.iterdir())
    assert names == ["1", "20", "30", "50", "60", "70.orbax-checkpoint-tmp"]
    assert (tmp_path / "1" / "notes.txt").read_text() == "mine"
    for step in (50, 60):
        message = f"cannot write .*{step}: a folder that is not a checkpoint"
        with pytest.raises(FileExistsError, match=message):
            checkpoints.save(tmp_path, step, STORED, {})
    assert (tmp_path / "50" / "notes.txt").read_text() == "mine"


def test_a_stored_step_is_replaced(tmp_path):
    for step, value in ((1, 10), (2, 20), (2, 21)):
        checkpoints.save(tmp_path, step, {"x": jnp.full(2, value)}, {"value": value})
    like = {"x": jnp.zeros(2, int)}
    for step, value in ((1, 10), (2, 21)):
        restored, about, _ = checkpoints.restore(tmp_path, like, step)
        same({"x": jnp.full(2, value)}, restored)
        assert about == {"value": value}
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["1", "2"]


@pytest.mark.parametrize("renames", range(4))
def test_a_save_cut_short_at_a_rename_leaves_whole_checkpoints(
    tmp_path, monkeypatch, renames
):
    # Of a replaced step: its old checkpoint moves away, the new one to its place; of a
    # new one: it moves to its place, the oldest away.
    like = {"x": jnp.zeros(2, int)}
    for step in (1, 2):
        checkpoints.save(tmp_path, step, {"x": jnp.full(2, step)}, {})
    rename, left = pathlib.Path.rename, [renames]

    def cut_short(path, target):
        if path.name.isdecimal():
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "rename", cut_short)
        for step in (2, 3):
            try:
                checkpoints.save(tmp_path, step, {"x": jnp.full(2, 10 + step)}, {})
            except KeyboardInterrupt:
                break
    assert not left[0]
    found, _, step = checkpoints.restore(tmp_path, like)
    expected = {0: 2, 1: 2, 2: 12, 3: 13}[renames]
    same({"x": jnp.full(2, expected)}, found)
    for step in (3, 4):
        checkpoints.save(tmp_path, step, {"x": jnp.full(2, step)}, {})
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["3", "4"]


def test_a_relative_folder_is_made_and_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints.save("runs/one", np.int64(4), STORED, {})
    assert checkpoints.latest("runs/one") == 4
    same(STORED, checkpoints.restore(tmp_path / "runs" / "one", STORED, 4)[0])


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    checkpoints.save("~/run", 2, STORED, {"of": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert checkpoints.latest("~/run") == checkpoints.latest(tmp_path / "home/run") == 2
    assert checkpoints.about(pathlib.Path("~/run")) == {"of": 2}
    same(STORED, checkpoints.restore("~/run", STORED)[0])


class TwoNamesakes:
    """A container that gives both its children one path."""


X = jax.tree_util.GetAttrKey("x")
jax.tree_util.register_pytree_with_keys(
    TwoNamesakes, lambda _: (((X, 1), (X, 2)), None), lambda *_: TwoNamesakes()
)


@pytest.mark.parametrize(
    ("step", "stored", "about", "error", "message"),
    [
        (-1, STORED, {}, ValueError, "-1"),
        (1.5, STORED, {}, TypeError, "float"),
        (1, {"name": "resnet8"}, {}, TypeError, r"\['name'\] is <class 'str'>"),
        (1, {"f": abs}, {}, TypeError, r"\['f'\]"),
        (1, {"big": 2**70}, {}, TypeError, r"\['big'\]"),
        (1, {"x": np.ones(2, np.longdouble)}, {}, TypeError, r"\['x'\].*of float128"),
        (1, {"x": np.ones(2, "m8[s]")}, {}, TypeError, r"\['x'\] is.*of timedelta64"),
        (1, {"x": np.ones(2, "M8[D]")}, {}, TypeError, r"\['x'\] is.*of datetime64"),
        (1, {"x": np.zeros(2, "f4, i4")}, {}, TypeError, r"\['x'\] is.*of \[\('f0'"),
        (1, {"x": np.ones(2, jnp.uint4)}, {}, TypeError, r"\['x'\] is.*of uint4"),
        (1, {"x": np.ma.masked_less([1, 2], 2)}, {}, TypeError, "MaskedArray"),
        (1, STORED, {"accuracy": np.float32(1)}, TypeError, "JSON"),
        (1, {"nothing": (None, jnp.zeros(0))}, {}, ValueError, "no element"),
        (1, TwoNamesakes(), {}, ValueError, "same path"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_leaves_nothing(
    tmp_path, capfd, caplog, step, stored, about, error, message
):
    with pytest.raises(error, match=message):
        checkpoints.save(tmp_path / "new", step, stored, about)
    assert not (tmp_path / "new").exists()
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_nothing_is_printed_or_logged(tmp_path, capfd, caplog):
    caplog.set_level(logging.WARNING)
    for step in (1, 2, 3, 3):
        checkpoints.save(tmp_path, step, state(), {})
    checkpoints.restore(tmp_path, state())
    checkpoints.latest(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Folders of processes that were killed at the first, second or third rename."""
    folder = tmp_path_factory.mktemp("killed")
    code = f"""
import os, pathlib, sys
import jax.numpy as jnp
from rdljax import checkpoints
rename = pathlib.Path.rename
def killed(path, target):
    global left
    left -= 1
    if not left:
        os._exit(9)
    return rename(path, target)
def save(step, value):
    checkpoints.save(folder, step, {{"x": jnp.full(2, value)}}, {{}})
for left in (1, 2, 3):
    folder = {str(folder)!r} + f"/{{left}}"
    # (One of its own for each, before JAX has threads that a fork would leave behind.)
    child = os.fork()
    if not child:
        save(2, 20)
        pathlib.Path.rename = killed
        save(2, 21)
        save(3, 30)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["9"] * 3, done.stderr
    return folder


@pytest.mark.parametrize("renames", [1, 2, 3])
def test_a_process_killed_at_a_rename_leaves_whole_checkpoints(killed, renames):
    # What is replaced moves away, the new one comes to its place, the oldest goes.
    folder, like = killed / str(renames), {"x": jnp.zeros(2, int)}
    found, _, _ = checkpoints.restore(folder, like)
    same({"x": jnp.full(2, {1: 20, 2: 20, 3: 21}[renames])}, found)
    checkpoints.save(folder, 4, {"x": jnp.full(2, 4)}, {})
    assert sorted(kept.name for kept in folder.iterdir()) == ["2", "4"]


def flip(file: pathlib.Path, rng: np.random.Generator) -> None:
    content = bytearray(file.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    file.write_bytes(content)


def truncate(file: pathlib.Path, rng: np.random.Generator) -> None:
    file.write_bytes(file.read_bytes()[: rng.integers(file.stat().st_size)])


def empty(file: pathlib.Path, rng: np.random.Generator) -> None:
    file.write_bytes(b"")


def remove(file: pathlib.Path, rng: np.random.Generator) -> None:
    file.unlink()


def rewritten(folder, **changes):
    """Changes a manifest, or drops what is ..., and makes all its hashes right."""
    text = folder / "manifest.json"
    manifest = json.loads(text.read_text())
    manifest["files"] = checkpoints._sha256_of_files(folder)
    manifest = {k: x for k, x in (manifest | changes).items() if x is not ...}
    manifest["sha256"] = files.sha256_of_manifest(manifest)
    text.write_text(json.dumps(manifest))


class TestUntrusted:
    """Manifests whose hashes are right, and folders with links."""

    LEAF = {"shape": [2], "dtype": "float32", "sha256": "0" * 64}

    def test_wrong_fields_are_damages(self, tmp_path):
        checkpoints.save(tmp_path, 4, {"x": np.ones(2, np.float32)}, {"epoch": 1})
        whole = (tmp_path / "4" / "manifest.json").read_text()
        for changes, words in (
            ({"leaves": ...}, "manifest.json lacks 'leaves'"),
            ({"files": ...}, "manifest.json lacks 'files'"),
            ({"about": ...}, "manifest.json lacks 'about'"),
            ({"leaves": [self.LEAF]}, "leaves is .*, expected dict"),
            ({"leaves": {"['x']": 3}}, r"leaves.\['x'\] is '3', expected dict"),
            ({"leaves": {"['x']": self.LEAF | {"shape": None}}}, "expected list"),
            ({"leaves": {"['x']": self.LEAF | {"shape": [2.0]}}}, "a whole number"),
            ({"leaves": {"['x']": self.LEAF | {"dtype": 4}}}, "'4', expected str"),
            ({"leaves": {"['x']": self.LEAF | {"sha256": []}}}, "expected str"),
            ({"files": {"state": 1}}, "files.state is '1', expected str"),
            ({"files": []}, "files is .*, expected dict"),
        ):
            (tmp_path / "4" / "manifest.json").write_text(whole)
            rewritten(tmp_path / "4", **changes)
            for read in (
                lambda: checkpoints.about(tmp_path),
                lambda: checkpoints.restore(tmp_path, {"x": np.ones(2, np.float32)}),
            ):
                with pytest.raises(checkpoints.CheckpointDamaged, match=words):
                    read()
        rewritten(tmp_path / "4", format=...)
        with pytest.raises(checkpoints.CheckpointMismatch, match="in format None"):
            checkpoints.about(tmp_path)

    @pytest.mark.parametrize(
        "other",
        [
            {"['x']": np.zeros(2**20, np.float32)},
            {"['x']": np.ones(2)},
            {"['x']": np.ones(2, np.float32), "['y']": np.zeros(2)},
            {"['y']": np.ones(2, np.float32)},
        ],
        ids=["larger", "dtype", "more", "other"],
    )
    def test_arrays_that_are_not_those_of_the_manifest(
        self, other, tmp_path, monkeypatch
    ):
        like = {"x": np.ones(2, np.float32)}
        checkpoints.save(tmp_path, 4, like, {})
        shutil.rmtree(tmp_path / "4" / "state")
        with checkpoints._orbax() as checkpointer:
            args = ocp.args.StandardSave(other)
            checkpointer.save(tmp_path / "4" / "state", args=args)
        rewritten(tmp_path / "4")
        # They are compared before one of them is read.
        monkeypatch.setattr(ocp.Checkpointer, "restore", None)
        with pytest.raises(checkpoints.CheckpointDamaged, match="not those of its man"):
            checkpoints.restore(tmp_path, like)

    def test_nothing_is_written_or_moved_through_a_link(self, tmp_path):
        theirs = tmp_path / "theirs" / "replaced 3"
        checkpoints.save(tmp_path / "mine", 4, STORED, {})
        shutil.copytree(tmp_path / "mine" / "4", theirs)
        (tmp_path / "mine" / ".writing").symlink_to(theirs.parent)
        assert checkpoints.latest(tmp_path / "mine") == 4
        checkpoints.save(tmp_path / "mine", 5, STORED, {})
        assert sorted(x.name for x in (tmp_path / "mine").iterdir()) == ["4", "5"]
        assert [x.name for x in theirs.parent.iterdir()] == ["replaced 3"]

    def test_pipes_are_not_waited_for(self, tmp_path):
        checkpoints.save(tmp_path, 4, STORED, {})
        os.mkfifo(tmp_path / "4" / "state" / "_sharding")
        message = "_sharding is not a regular file"
        with pytest.raises(checkpoints.CheckpointDamaged, match=message):
            checkpoints.restore(tmp_path, STORED)
        (tmp_path / "4" / "manifest.json").unlink()
        os.mkfifo(tmp_path / "4" / "manifest.json")
        with pytest.raises(checkpoints.CheckpointDamaged, match="cannot be read"):
            checkpoints.about(tmp_path)


class TestDamage:
    """Two checkpoints of one state, of which the newest is damaged."""

    def saved(self, folder):
        for step in (1, 2):
            checkpoints.save(folder, step, state(step), {"epoch": step})

    def files(self, folder):
        return sorted(f for f in (folder / "2").rglob("*") if f.is_file())

    @pytest.mark.parametrize("damage", [flip, truncate, empty, remove])
    def test_of_any_file_is_seen_and_the_step_before_is_used(self, tmp_path, damage):
        self.saved(tmp_path / "whole")
        rng = np.random.default_rng(0)
        count = len(self.files(tmp_path / "whole"))
        assert count > 5
        for i in range(count * (3 if damage is flip else 1)):
            folder = tmp_path / str(i)
            shutil.copytree(tmp_path / "whole", folder)
            damage(self.files(folder)[i % count], rng)
            said = []
            found, about, step = checkpoints.restore(
                folder, jax.eval_shape(state), tell=said.append
            )
            same(state(1), found)
            assert about == {"epoch": 1} and step == 1
            (message,) = said
            assert message.startswith(f"{folder / '2'} is damaged: ")
            assert message.endswith("; step 1 is used")
            with pytest.raises(checkpoints.CheckpointDamaged, match="damaged"):
                checkpoints.restore(folder, jax.eval_shape(state), 2)

    def test_orbax_alone_would_not_see_a_flipped_byte(self, tmp_path):
        # Why there are hashes: of the file with the arrays, some byte reads as another
        # number.
        saved = np.random.default_rng(0).normal(size=1000)
        silent = 0
        for i in range(20):
            folder = tmp_path / str(i)
            checkpoints.save(folder, 2, {"x": saved}, {})
            flip(
                max(self.files(folder), key=lambda f: f.stat().st_size),
                np.random.default_rng(i),
            )
            try:
                with ocp.StandardCheckpointer() as checkpointer:
                    found = checkpointer.restore(folder / "2" / "state")["['x']"]
            except ValueError:
                continue
            silent += not np.array_equal(found, saved)
            with pytest.raises(checkpoints.CheckpointDamaged, match="was changed"):
                checkpoints.restore(folder, {"x": saved})
        assert silent

    def test_a_changed_number_in_the_manifest_is_seen(self, tmp_path):
        self.saved(tmp_path)
        text = tmp_path / "2" / "manifest.json"
        text.write_text(text.read_text().replace('"epoch": 2', '"epoch": 9'))
        said = []
        assert checkpoints.about(tmp_path, tell=said.append) == {"epoch": 1}
        assert "manifest was changed; step 1 is used" in said[0]
        with pytest.raises(checkpoints.CheckpointDamaged, match="manifest was changed"):
            checkpoints.about(tmp_path, 2)

    def test_without_a_manifest(self, tmp_path):
        self.saved(tmp_path)
        (tmp_path / "2" / "manifest.json").unlink()
        with pytest.warns(UserWarning, match="manifest cannot be read.*step 1 is used"):
            _, _, step = checkpoints.restore(tmp_path, state())
        assert step == 1

    def test_of_all_steps_is_an_error_that_names_each(self, tmp_path):
        self.saved(tmp_path)
        for step in (1, 2):
            shutil.rmtree(tmp_path / str(step) / "state")
        with pytest.raises(checkpoints.CheckpointDamaged) as caught:
            checkpoints.restore(tmp_path, state())
        assert all(f"{tmp_path / str(step)} is damaged" in str(caught.value)
                   for step in (1, 2))  # fmt: skip

    def test_a_damaged_step_is_replaced_when_it_is_reached_again(self, tmp_path):
        self.saved(tmp_path)
        (tmp_path / "2" / "manifest.json").unlink()
        checkpoints.save(tmp_path, 2, state(2), {"epoch": 2})
        same(state(2), checkpoints.restore(tmp_path, state())[0])

    def test_a_damaged_step_is_not_the_one_that_is_kept(self, tmp_path):
        self.saved(tmp_path)
        (tmp_path / "2" / "manifest.json").write_text("[" * 100_000)
        checkpoints.save(tmp_path, 3, state(3), {"epoch": 3})
        assert sorted(folder.name for folder in tmp_path.iterdir()) == ["1", "3"]
        (tmp_path / "3" / "manifest.json").unlink()
        with pytest.warns(UserWarning, match="step 1 is used"):
            found, _, _ = checkpoints.restore(tmp_path, state())
        same(state(1), found)

    def test_a_mismatch_is_no_damage(self, tmp_path):
        self.saved(tmp_path)
        with pytest.raises(checkpoints.CheckpointMismatch):
            checkpoints.restore(tmp_path, {"x": jnp.ones(2)})


def limited(folder, *saves):
    """Saves in a process whose files may have so many bytes; answers what it says.

    Of each limit and step: what error there was; then, what the folder has, which is
    the newest step, its first number, and how many different ones it has.
    """
    code = f"""
import json, os, resource
import numpy as np
from rdljax import checkpoints
folder, x = {str(folder)!r}, np.random.default_rng(7).normal(size=100_000)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
for limit, step in {saves}:
    said = None
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    try:
        checkpoints.save(folder, step, {{"x": x}}, {{}})
    except checkpoints.CheckpointNotWritten as error:
        said = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    found, _, latest = checkpoints.restore(folder, {{"x": x}})
    numbers = found["x"][0], len(np.unique(found["x"]))
    print(json.dumps([said, sorted(os.listdir(folder)), latest, *numbers]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path):
    checkpoints.save(tmp_path, 1, {"x": np.ones(100_000)}, {})
    saves = [(limit, step) for limit in (0, 1_000, 50_000) for step in (1, 2)]
    *found, last = limited(tmp_path, *saves, (10**9, 2))
    for (_, step), (said, *kept) in zip(saves, found, strict=True):
        assert f"{tmp_path / str(step)} could not be written" in said
        # A whole checkpoint is left and nothing of the others.
        assert kept == [["1"], 1, 1, 1]
    said, names, latest, _, different = last
    assert said is None and names == ["1", "2"]
    assert (latest, different) == (2, 100_000)


class TestAbout:
    def test_is_what_save_was_told_newest_or_of_a_step(self, tmp_path):
        for step in (1, 2):
            checkpoints.save(tmp_path, step, {"x": np.ones(2)}, {"epoch": step})
        assert checkpoints.about(tmp_path) == {"epoch": 2}
        assert checkpoints.about(tmp_path, step=1) == {"epoch": 1}

    def test_a_missing_step_or_folder_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no checkpoint in"):
            checkpoints.about(tmp_path / "nothing")
        checkpoints.save(tmp_path, 1, {"x": np.ones(2)}, {})
        with pytest.raises(FileNotFoundError, match="no step 3"):
            checkpoints.about(tmp_path, step=3)
