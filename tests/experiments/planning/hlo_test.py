"""Text of compiled programs, written by hand in the compilers' forms."""

import pytest

from experiments.planning import hlo

# A loop of five, in it an exchange, and one more on the way in.
_LOOPS = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], bf16[4,8], f32[8,2])) -> (s32[], bf16[4,8], f32[8,2]) {
  %p = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, f32[8,2]) parameter(0)
  %x = bf16[4,8]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %w = f32[8,2]{1,0} get-tuple-element(%p), index=2
  %product = f32[4,2]{1,0} dot(%x, %w), lhs_contracting_dims={1}, \
rhs_contracting_dims={0}
  %inner = bf16[4,8]{1,0} all-reduce(%x), channel_id=1, \
replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %out = (s32[], bf16[4,8], f32[8,2]) tuple(%p, %inner, %w)
}

%condition (q: (s32[], bf16[4,8], f32[8,2])) -> pred[] {
  %q = (s32[], bf16[4,8], f32[8,2]) parameter(0)
  %five = s32[]{:T(128)} constant(5)
  %counter = s32[] get-tuple-element(%q), index=0
  ROOT %less = pred[] compare(%counter, %five), direction=LT
}

ENTRY %main (x.1: f32[16,4]) -> f32[16,4] {
  %x.1 = f32[16,4]{1,0} parameter(0), metadata={op_name="x(y)"}
  %start = (f32[16,4]{1,0}, f32[128,4]{1,0}) all-gather-start(%x.1), \
channel_id=2, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
  %done = f32[128,4]{1,0} all-gather-done(%start)
  %loop = (s32[], bf16[4,8], f32[8,2]) while(%done), condition=%condition, \
body=%body
  ROOT %result = f32[16,4]{1,0} copy(%x.1)
}
"""


def test_exchanges_in_a_loop_count_as_often_as_it_runs():
  exchanges = hlo.Program(_LOOPS, 8).collectives()
  assert sorted(exchanges, key=lambda c: c.kind) == [
    hlo.Collective('all-gather', 1, 16 * 4 * 4, 8),
    hlo.Collective('all-reduce', 5, 4 * 8 * 2, 4),
  ]


def test_products_count_as_often_as_their_loop_runs_or_once():
  program = hlo.Program(_LOOPS, 8)
  once = 2 * 4 * 2 * 8
  assert program.flops() == 5 * once
  assert program.flops(loops=False) == once


def test_loop_whose_trips_xla_notes():
  text = _LOOPS.replace(
    'body=%body',
    'body=%body, backend_config={"known_trip_count":{"n":"7"},"x":{"n":"2"}}',
  )
  assert hlo.Program(text, 8).flops() == 7 * 2 * 4 * 2 * 8


def test_bytes_are_those_outside_of_fusions():
  # The loop's dot and all-reduce, the gather and the copy.
  inside = (4 * 8 * 2 + 8 * 2 * 4 + 4 * 2 * 4) + 2 * (4 * 8 * 2) + (1 + 4 + 4)
  gather = 16 * 4 * 4 + (16 * 4 * 4 + 128 * 4 * 4)
  assert hlo.Program(_LOOPS, 8).bytes_accessed() == (
    5 * inside + gather + 2 * 16 * 4 * 4
  )


def _entry(lines, before=''):
  return f'{before}\nENTRY %main (a: f32[]) -> f32[] {{\n{lines}\n}}\n'


@pytest.mark.parametrize(
  'groups, devices',
  [
    ('replica_groups={{0,1,2,3},{4,5,6,7}}', 4),
    ('replica_groups=[4,2]<=[2,4]T(1,0)', 2),
    ("replica_groups=mesh['a'=8] {'a'}", 8),
    ("replica_groups=mesh['a'=2,'b'=4] {'b'}", 4),
    ("replica_groups=mesh['a'=8] {'a':(2)4}", 4),
    ('replica_groups={}', 8),
  ],
)
def test_devices_of_an_exchange(groups, devices):
  text = _entry(
    '  %a = f32[10]{0} parameter(0)\n'
    f'  ROOT %r = f32[10]{{0}} all-reduce(%a), channel_id=1, {groups}, x=1'
  )
  (exchange,) = hlo.Program(text, 8).collectives()
  assert exchange.devices == devices
  assert exchange.sent_bytes == 40 * 2 * (devices - 1) / devices


def test_exchange_that_a_tpu_does_bit_by_bit_counts_once():
  def part(number):
    return (
      f'%part.{number} (p: f32[8,128]) -> f32[64,128] {{\n'
      '  %p = f32[8,128]{1,0} parameter(0)\n'
      '  ROOT %g = f32[64,128]{1,0} all-gather(%p), channel_id=2, '
      'replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, '
      'frontend_attributes={chain_id="0"}\n}\n'
    )

  text = _entry(
    '  %a = f32[8,128]{1,0} parameter(0)\n'
    '  %f.1 = f32[64,128]{1,0} fusion(%a), kind=kCustom, calls=%part.1\n'
    '  ROOT %f.2 = f32[64,128]{1,0} fusion(%a), kind=kCustom, calls=%part.2',
    part(1) + part(2),
  )
  (exchange,) = hlo.Program(text, 8).collectives()
  assert exchange == hlo.Collective('all-gather', 1, 8 * 128 * 4, 8)


def test_tpu_product_with_the_batch_as_a_window():
  # 8 rows and 4 heads of [101, 32] times [32, 101].
  text = _entry(
    '  %q = bf16[8,101,4,32]{3,2,1,0} parameter(0)\n'
    '  %k = bf16[8,101,4,32]{3,2,1,0} parameter(1)\n'
    '  ROOT %s = f32[8,4,101,101]{2,3,1,0:T(8,128)} convolution(%q, %k), '
    'window={size=8x4 stride=7x3 lhs_dilate=8x4}, dim_labels=0b1f_0o1i->01bf'
  )
  assert hlo.Program(text, 1).flops() == 2 * 8 * 4 * 101 * 101 * 32


def test_plain_tpu_product():
  text = _entry(
    '  %x = bf16[808,128]{1,0} parameter(0)\n'
    '  %w = bf16[128,384]{1,0} parameter(1)\n'
    '  ROOT %y = bf16[808,384]{1,0} convolution(%x, %w), dim_labels=bf_io->bf'
  )
  assert hlo.Program(text, 1).flops() == 2 * 808 * 128 * 384


def test_gpu_product_by_cublas():
  text = _entry(
    '  %x = bf16[32,104,8]{2,1,0} parameter(0)\n'
    '  %w = bf16[32,8,16]{2,1,0} parameter(1)\n'
    '  ROOT %y = (f32[32,104,16]{2,1,0}, s8[4194304]{0}) custom-call(%x, %w), '
    'custom_call_target="__cublas$lt$matmul", backend_config='
    '{"gemm_backend_config":{"dot_dimension_numbers":'
    '{"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":["1"]}}}'
  )
  assert hlo.Program(text, 1).flops() == 2 * 32 * 104 * 16 * 8


# A call that XLA compiled for an H100, with what the reader does not look at
# left out, and the gradient's.
_ATTENTION = """\
  %q = bf16[96,902,8,64]{3,2,1,0} parameter(0)
  %lengths = s32[96]{0} parameter(1)
  %forward = (bf16[96,8,902,64]{3,1,2,0}, f32[96,8,902]{2,1,0}, u8[0]{0}) \
custom-call(%q, %q, %q, %lengths, %lengths), \
custom_call_target="__cudnn$fmhaSoftmax", operand_layout_constraints=\
{bf16[96,902,8,64]{3,2,1,0}, s32[96]{0}}, backend_config={"operation_queue_id":\
 "0", "cudnn_fmha_backend_config": {"algorithm": {"algo_id": "0", \
"tuning_knobs": {"17": "1", "24": "0"}}, "fmha_scale": 0.125, \
"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["96", \
"8", "902", "902"], "tuple_shapes": [], "layout": {"dim_unique": []}}, \
"mask_type": "PADDING"}}
  %out = bf16[96,8,902,64]{3,1,2,0} get-tuple-element(%forward), index=0
  %sums = f32[96,8,902]{2,1,0} get-tuple-element(%forward), index=1
  %o = bf16[96,902,8,64]{3,2,1,0} bitcast(%out)
  ROOT %backward = (bf16[96,8,902,64]{3,1,2,0}, bf16[96,8,902,64]{3,1,2,0}, \
bf16[96,8,902,64]{3,1,2,0}, u8[0]{0}) custom-call(%q, %q, %q, %sums, %o, \
/*index=5*/%o, %lengths, %lengths), \
custom_call_target="__cudnn$fmhaSoftmaxBackward", backend_config=\
{"cudnn_fmha_backend_config": {"intermediate_tensor_shape": {"element_type": \
"BF16", "dimensions": ["96", "8", "902", "902"], "tuple_shapes": []}}}"""


@pytest.mark.parametrize('space', [' ', ''])
def test_attention_by_cudnn(space):
  text = _entry(_ATTENTION.replace('": ', f'":{space}'))
  program = hlo.Program(text, 1)
  product = 2 * 96 * 8 * 902 * 902 * 64
  assert program.uncounted() == ()
  assert program.flops() == (2 + 5) * product
  tensor, sums, lengths = 96 * 902 * 512 * 2, 96 * 8 * 902 * 4, 2 * 96 * 4
  forward = 4 * tensor + sums + lengths
  backward = 8 * tensor + sums + lengths
  assert program.bytes_accessed() == forward + backward


@pytest.mark.parametrize(
  'table',
  [
    '  %t = f32[1000,4]{1,0} parameter(0)\n',
    # In another shape.
    '  %r = f32[1000,2,2]{2,1,0} parameter(0)\n'
    '  %t = f32[1000,4]{1,0} bitcast(%r)\n',
  ],
)
def test_looking_up_rows_of_a_table_does_not_read_the_table(table):
  fusion = (
    '%looked_up (t: f32[1000,4], i: s32[3]) -> f32[3,4] {\n'
    f'{table}'
    '  %i = s32[3]{0} parameter(1)\n'
    '  ROOT %g = f32[3,4]{1,0} gather(%t, %i), offset_dims={1}\n}\n'
  )
  text = _entry(
    '  %a = f32[1000,4]{1,0} parameter(0)\n'
    '  %b = s32[3]{0} parameter(1)\n'
    '  ROOT %f = f32[3,4]{1,0} fusion(%a, %b), kind=kLoop, calls=%looked_up',
    fusion,
  )
  rows, numbers = 3 * 4 * 4, 3 * 4
  assert hlo.Program(text, 1).bytes_accessed() == 2 * rows + numbers


@pytest.mark.parametrize(
  'text', ['', 'HloModule x\n', '%main { ... }\n', 'func.func @main() {}\n']
)
def test_text_of_another_form_is_no_program_of_no_work(text):
  with pytest.raises(hlo.UnknownForm):
    hlo.Program(text, 1)


@pytest.mark.parametrize(
  'line, name',
  [
    ('custom-call(%a), custom_call_target="flash"', 'custom-call flash'),
    ('custom-call(%a, %a), custom_call_target="__cublas$gemm"', '__cublas$'),
    (
      'custom-call(%a), custom_call_target="__cudnn$fmhaSoftmax", '
      'backend_config={"intermediate_tensor_shape":"new"}',
      'custom-call __cudnn$fmhaSoftmax',
    ),
    ('dot(%a, %a), contracting={1}', 'dot'),
    ('convolution(%a, %a), labels=bf_io', 'convolution'),
    ('while(%a), condition=%c, body=%b', 'loop r, taken to run once'),
  ],
)
def test_work_that_is_not_known_is_named(line, name):
  program = hlo.Program(
    _entry(
      f'  %a = f32[8,8]{{1,0}} parameter(0)\n  ROOT %r = f32[8,8]{{1,0}} {line}'
    ),
    1,
  )
  (found,) = program.uncounted()
  assert name in found
  assert program.flops() == 0


def test_nothing_is_missing_where_all_forms_are_known():
  line = '  ROOT %s = f32[8,8]{1,0} custom-call(%a), custom_call_target='
  text = _entry('  %a = f32[8,8]{1,0} parameter(0)\n' + line + '"Sharding"')
  assert hlo.Program(text, 8).uncounted() == ()
  assert hlo.Program(_LOOPS, 8).uncounted() == ()


@pytest.mark.parametrize(
  'dtype, num_bytes',
  [('pred', 9), ('s4', 5), ('bf16', 18), ('f8e4m3fn', 9), ('c64', 72)],
)
def test_bytes_of_dtypes(dtype, num_bytes):
  assert hlo.Shape(dtype, (3, 3)).num_bytes == num_bytes
