"""Programs for accelerators, compiled without one, and what is read from their text."""

import os

import numpy as np
import pytest

from benchmarks import hlo

TEXT = """
HloModule example, entry_computation_layout={(f32[8,4]{1,0})->f32[8,4]{1,0}}

%body.1 (p.1: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p.1 = (s32[], f32[8,4]{1,0}) parameter(0)
  %fusion.1 = f32[8,4]{1,0} fusion(%p.1), kind=kLoop, calls=%f, metadata={op_name="jit(f)/step"}, backend_config={"estimated_cycles":"100"}
  ROOT %t.1 = (s32[], f32[8,4]{1,0}) tuple(%p.1, %fusion.1)
}

%cond.2 (p.4: (s32[], f32[8,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5), metadata={op_name="jit(f)"}
  %p.4 = (s32[], f32[8,4]{1,0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.4), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %limit), direction=LT, metadata={op_name="lt"}
}

%body.2 (p.5: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p.5 = (s32[], f32[8,4]{1,0}) parameter(0)
  %fusion.3 = f32[8,4]{1,0} fusion(%p.5), kind=kLoop, calls=%f, metadata={op_name="jit(f)/around"}, backend_config={"estimated_cycles":"10"}
  ROOT %t.2 = (s32[], f32[8,4]{1,0}) tuple(%p.5, %fusion.3)
}

%cheap (p.2: f32[8,4]) -> f32[8,4] {
  ROOT %c.1 = f32[8,4]{1,0} copy(%p.2), backend_config={"estimated_cycles":"1"}
}

%dear (p.3: f32[8,4]) -> f32[8,4] {
  ROOT %c.2 = f32[8,4]{1,0} copy(%p.3), backend_config={"estimated_cycles":"40"}
}

ENTRY %main.1 (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %eye = pred[64,64]{1,0} constant({...})
  %while.1 = (s32[], f32[8,4]{1,0}) while(%t), condition=%cond, body=%body.1, backend_config={"known_trip_count":{"n":"7"}}
  %while.2 = (s32[], f32[8,4]{1,0}) while(%t), condition=%cond.2, body=%body.2
  %if = f32[8,4]{1,0} conditional(%i, %x, %x), branch_computations={%cheap, %dear}
  %g.1 = (bf16[2,4]{1,0}, bf16[8,4]{1,0}) all-gather-start(%y), replica_groups={{0,1,2,3}}, backend_config={"chain_id":"3"}
  %g.2 = (bf16[2,4]{1,0}, bf16[8,4]{1,0}) all-gather-start(%y), replica_groups={{0,1,2,3}}, backend_config={"chain_id":"3"}
  %r.1 = f32[8,4]{1,0} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %fusion.2 = f32[8,4]{1,0} fusion(%x), kind=kLoop, calls=%g, metadata={op_name="jit(f)/end"}, backend_config={"estimated_cycles":"30"}
}
"""  # noqa: E501


class TestText:
    def test_cycles_count_loops_as_often_as_they_run(self):
        found = hlo.cycles(TEXT, 3)
        assert found.total == 7 * 100 + 5 * 10 + 40 + 30
        assert found.largest == [
            (700, "fusion", "jit(f)/step"),
            (50, "fusion", "jit(f)/around"),
            (40, "copy", "c.2"),
        ]

    def test_collectives_count_once_and_by_what_a_device_receives(self):
        found = hlo.collectives(TEXT, 4)
        # Three quarters of what is gathered; a ring of sums passes twice as much.
        assert found == {
            "all-gather": (1, 0.75 * 8 * 4 * 2),
            "all-reduce": (1, 1.5 * 8 * 4 * 4),
        }

    def test_the_largest_constant(self):
        assert hlo.constants(TEXT) == 64 * 64

    def test_bytes_of_a_tuple(self):
        assert hlo.bytes_of("(f32[2,3]{1,0}, bf16[5], s32[])") == 24 + 10 + 4


@pytest.fixture(scope="module")
def chips():
    """Four chips of a TPU v5e that are not there."""
    pytest.importorskip("libtpu", reason="libtpu is not installed")
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    }.items():
        os.environ.setdefault(name, value)
    from benchmarks import compiled

    return compiled.devices("v5e:2x2")


class TestTpu:
    def test_the_view_copies_no_images(self, chips):
        """Its temporaries are a part of the set, which has 153 MB."""
        from benchmarks import compiled

        found = compiled.CASES["view"](chips, None)
        images = np.prod((compiled.IMAGES, *compiled.SIZE))
        assert found.arguments < 1.1 * images
        assert found.temporary < 0.1 * images
        # It takes less than a thirtieth of a step.
        assert found.cycles < 150_000

    def test_no_constant_grows_with_the_rows(self, chips):
        from benchmarks import compiled

        for name in ("rdm-512", "discrepancy-512"):
            assert compiled.CASES[name](chips, None).constant < 512 * 512 / 8

    @pytest.mark.parametrize("method", ["plain", "rdl+kd"])
    def test_a_step(self, method, chips):
        """It fits, its state is donated, and the gradient is summed once."""
        from benchmarks import compiled

        found = compiled.of_step(method, chips, -1.0)
        assert found.memory < 2**30
        received = sum(size for _, size in found.received.values())
        parameters = 4 * 1_233_540
        assert received > 1.5 * parameters
        assert found.temporary < 600 * 2**20
