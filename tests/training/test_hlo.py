"""What is read out of an optimised program."""

import pytest

from topgap_jax.training.hlo import Tensor, collectives, executed

# Shortened from programs that the TPU's compiler wrote.
PROGRAM = """\
HloModule jit_train_step, is_scheduled=true

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %doubled = f32[8,4]{1,0:T(8,128)S(1)} fusion(%x), kind=kLoop, calls=%f, \
metadata={op_name="step/topk_mean/add"}, backend_config={"window_config":{"estimated_cycles":"100"}}
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%i, %doubled)
}

%condition (p: (s32[], f32[8,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(4)
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%hidden (p: bf16[2,3]) -> bf16[4,3] {
  ROOT %all-gather.1 = bf16[4,3]{1,0} all-gather(%p), channel_id=7, replica_groups=[4,2]<=[8], dimensions={0}
}

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0:T(8,128)} parameter(0)
  %all-reduce.1 = (f32[64]{0:T(128)S(1)}, /*index=1*/bf16[3,3]{1,0}) all-reduce(%b, %c), channel_id=1, \
replica_groups=mesh['axis_0'=16,'axis_1'=2] {'axis_0'}, to_apply=%sum, \
metadata={op_name="jit(train_step)/jvp()/reduce_sum"}
  %while.1 = (s32[], f32[8,4]{1,0}) while(%t), condition=%condition, body=%body
  %start = ((f32[2]{0}), (f32[8]{0})) all-gather-start(%d), \
replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %done = f32[8]{0} all-gather-done(%start)
  %scatter = f32[5]{0} reduce-scatter(%e), replica_groups=[2,4]<=[8], to_apply=%sum
  %permute = (f32[3]{0}, f32[3]{0}, u32[], u32[]) collective-permute-start(%g), \
source_target_pairs={{0,1},{1,0}}
  ROOT %result = f32[8,4]{1,0:T(8,128)} fusion(%a, %all-reduce.1), calls=%f, metadata={op_name="add"}
}
"""


def test_every_collective_is_found_with_its_arrays():
    found = collectives(PROGRAM)
    assert [(each.kind, each.devices) for each in found] == [
        ("all-gather", 2),
        ("all-reduce", 16),
        ("all-gather", 4),
        ("reduce-scatter", 4),
        ("collective-permute", 2),
    ]
    assert found[1].results == (Tensor("f32", (64,)), Tensor("bf16", (3, 3)))
    assert found[1].origin == "jit(train_step)/jvp()/reduce_sum"
    assert [each.nbytes for each in found] == [24, 64 * 4 + 9 * 2, 32, 4 * 20, 12]


def test_bytes_on_the_way_round_a_ring():
    sent = [each.sent for each in collectives(PROGRAM)]
    assert sent == pytest.approx([12, 2 * 15 / 16 * 274, 24, 60, 12])


def test_loops_count_as_often_as_they_run():
    found = executed(PROGRAM)
    assert [(each.kind, each.times) for each in found if each.kind == "fusion"] == [
        ("fusion", 4),
        ("fusion", 1),
    ]
    loop = next(each for each in found if each.times == 4)
    assert (loop.origin, loop.cycles) == ("step/topk_mean/add", 100)


def test_what_lies_in_the_memory_of_the_core_is_no_traffic():
    loop, last = (each for each in executed(PROGRAM) if each.kind == "fusion")
    assert loop.memory_bytes == 8 * 4 * 4  # read; the result has the memory space S(1)
    assert last.memory_bytes == 2 * 8 * 4 * 4 + 9 * 2
