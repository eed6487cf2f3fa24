"""Explicit vectors of float32 for Numba: loads, arithmetic, exponential, sums.

Explicit because loops over rows of 9 and heads of 32 are too short for the compiler's vectorizer and its prologues.
LLVM splits vectors on machines with shorter registers. Indices are not checked, and negative ones do not wrap around.
"""

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

# Two registers, which share the loads of their common factor. A head of every published model has 32 channels.
LANES = 32 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 16

_F32, _I32, _I16 = (ir.VectorType(t, LANES) for t in (ir.FloatType(), ir.IntType(32), ir.IntType(16)))


class Vector(types.Type):
    """LANES float32 numbers in a register."""

    def __init__(self):
        super().__init__(name=f"Vector{LANES}")


vector = Vector()


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _F32)


def _const(kind, number):
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def _call(builder, name, result, *operands):
    kind = ir.FunctionType(result, [operand.type for operand in operands])
    return builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), operands)


def _fma(builder, a, b, c):
    return _call(builder, f"llvm.fmuladd.v{LANES}f32", _F32, a, b, c)  # fused if the machine can


def _pointer(context, builder, array_type, array, index, to):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), to.as_pointer())


def _load(array, f32, i32, i16):
    half = array.dtype == types.uint16

    def codegen(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], *args, i16 if half else f32)
        loaded = builder.load(pointer, align=2 if half else 4)
        if not half:
            return loaded
        return builder.bitcast(builder.shl(builder.zext(loaded, i32), _const(i32, 16)), f32)

    return codegen


def _store(array, f32, i32, i16):
    half = array.dtype == types.uint16

    def codegen(context, builder, sig, args):
        array_, index, x = args
        pointer = _pointer(context, builder, sig.args[0], array_, index, i16 if half else f32)
        if half:
            bits = builder.bitcast(x, i32)
            odd = builder.and_(builder.lshr(bits, _const(i32, 16)), _const(i32, 1))
            rounded = builder.add(builder.add(bits, _const(i32, 0x7FFF)), odd)
            rounded = builder.select(builder.fcmp_unordered("uno", x, x), _const(i32, 0x7FC00000), rounded)
            x = builder.trunc(builder.lshr(rounded, _const(i32, 16)), i16)
        builder.store(x, pointer, align=2 if half else 4)
        return context.get_dummy_value()

    return codegen


@intrinsic
def load(typingctx, array, index):
    """LANES numbers from array[index]; a uint16 array holds bfloat16."""
    return vector(array, types.int64), _load(array, _F32, _I32, _I16)


@intrinsic
def load_one(typingctx, array, index):
    """array[index], likewise."""
    return types.float32(array, types.int64), _load(array, ir.FloatType(), ir.IntType(32), ir.IntType(16))


@intrinsic
def store(typingctx, array, index, numbers):
    """LANES numbers to array[index], rounded to nearest even if it is uint16 (bfloat16)."""
    return types.void(array, types.int64, vector), _store(array, _F32, _I32, _I16)


@intrinsic
def store_one(typingctx, array, index, number):
    """One number to array[index], likewise."""
    return types.void(array, types.int64, types.float32), _store(array, ir.FloatType(), ir.IntType(32), ir.IntType(16))


def _repeat(builder, number):
    first = builder.insert_element(ir.Constant(_F32, ir.Undefined), number, ir.IntType(32)(0))
    return builder.shuffle_vector(first, ir.Constant(_F32, ir.Undefined), _const(_I32, 0))


@intrinsic
def load_repeated(typingctx, array, index):
    """array[index] in every lane; unlike array[index], without a branch for negative indices."""

    def codegen(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], *args, ir.FloatType())
        return _repeat(builder, builder.load(pointer))

    return vector(array, types.int64), codegen


@intrinsic
def splat(typingctx, number):
    """The number in every lane."""
    return vector(types.float32), lambda context, builder, sig, args: _repeat(builder, *args)


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c."""
    return vector(vector, vector, vector), lambda context, builder, sig, args: _fma(builder, *args)


@intrinsic
def mul(typingctx, a, b):
    """a * b."""
    return vector(vector, vector), lambda context, builder, sig, args: builder.fmul(*args)


@intrinsic
def first_lanes(typingctx, x, count):
    """x, with zeros from lane `count` on."""

    def codegen(context, builder, sig, args):
        count = builder.trunc(args[1], ir.IntType(32))
        first = builder.insert_element(ir.Constant(_I32, ir.Undefined), count, ir.IntType(32)(0))
        counts = builder.shuffle_vector(first, ir.Constant(_I32, ir.Undefined), _const(_I32, 0))
        inside = builder.icmp_signed("<", ir.Constant(_I32, list(range(LANES))), counts)
        return builder.select(inside, args[0], _const(_F32, 0.0))

    return vector(vector, types.int64), codegen


@intrinsic
def exp(typingctx, x):
    """e**x to 1e-7 for |x| < 87 (Cephes expf): 2**n * e**r with n whole and |r| <= log(2) / 2."""

    def codegen(context, builder, sig, args):
        (x,) = args
        f = lambda number: _const(_F32, number)  # noqa: E731
        magic = f(12582912.0)  # 1.5 * 2**23: after adding it, n is in the low bits
        shifted = _fma(builder, x, f(1.44269504088896341), magic)
        n = builder.fsub(shifted, magic)
        r = _fma(builder, n, f(-0.693359375), x)
        r = _fma(builder, n, f(2.12194440e-4), r)
        p = f(1.9875691500e-4)
        for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
            p = _fma(builder, p, r, f(c))
        p = builder.fadd(_fma(builder, p, builder.fmul(r, r), r), f(1.0))
        power = builder.shl(builder.bitcast(shifted, _I32), _const(_I32, 23))
        return builder.bitcast(builder.add(builder.bitcast(p, _I32), power), _F32)

    return vector(vector), codegen


@intrinsic
def largest(typingctx, x, y):
    """max(|x|, |y|) per lane, compared as integers, so that NaN is larger than infinity."""

    def codegen(context, builder, sig, args):
        a, b = (builder.and_(builder.bitcast(v, _I32), _const(_I32, 0x7FFFFFFF)) for v in args)
        return builder.bitcast(builder.select(builder.icmp_unsigned(">", a, b), a, b), _F32)

    return vector(vector, vector), codegen


@intrinsic
def all_below(typingctx, x, bound):
    """Whether every lane is below the bound (and not NaN)."""

    def codegen(context, builder, sig, args):
        bits = builder.bitcast(args[0], _I32)
        top = _call(builder, f"llvm.vector.reduce.umax.v{LANES}i32", ir.IntType(32), bits)
        return builder.fcmp_ordered("<", builder.bitcast(top, ir.FloatType()), args[1])

    return types.boolean(vector, types.float32), codegen


def _add_shuffled(builder, x, y, low, high):
    """x and y, shuffled by two patterns and added."""
    a, b = (builder.shuffle_vector(x, y, ir.Constant(_I32, pattern)) for pattern in (low, high))
    return builder.fadd(a, b)


def _halves(builder, x):
    """Adds one half of the lanes to the other until four lanes are left."""
    lanes = LANES
    while lanes > 4:
        lanes //= 2
        index = ir.VectorType(ir.IntType(32), lanes)
        low, high = (ir.Constant(index, list(range(start, start + lanes))) for start in (0, lanes))
        x = builder.fadd(builder.shuffle_vector(x, x, low), builder.shuffle_vector(x, x, high))
    return x


@intrinsic
def store_sums(typingctx, array, index, a, b, c, d):
    """The sums over the lanes of four vectors, to array[index : index + 4]."""
    quads = range(0, LANES, 4)  # the shuffles stay inside quarters, where they are cheap
    low2 = [lane for q in quads for lane in (q, LANES + q, q + 1, LANES + q + 1)]
    high2 = [lane for q in quads for lane in (q + 2, LANES + q + 2, q + 3, LANES + q + 3)]
    low4 = [lane for q in quads for lane in (q, q + 1, LANES + q, LANES + q + 1)]
    high4 = [lane for q in quads for lane in (q + 2, q + 3, LANES + q + 2, LANES + q + 3)]

    def codegen(context, builder, sig, args):
        array_, index_, a, b, c, d = args
        ab, cd = _add_shuffled(builder, a, b, low2, high2), _add_shuffled(builder, c, d, low2, high2)
        sums = _halves(builder, _add_shuffled(builder, ab, cd, low4, high4))
        pointer = _pointer(context, builder, sig.args[0], array_, index_, ir.VectorType(ir.FloatType(), 4))
        builder.store(sums, pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, vector, vector, vector, vector), codegen


@intrinsic
def lane_sum(typingctx, x):
    """The sum over the lanes."""

    def codegen(context, builder, sig, args):
        quarter = _halves(builder, args[0])
        a, b, c, d = (builder.extract_element(quarter, ir.IntType(32)(lane)) for lane in range(4))
        return builder.fadd(builder.fadd(a, c), builder.fadd(b, d))

    return types.float32(vector), codegen


@intrinsic
def take_task(typingctx, pointer):
    """Reads and increments the first argument atomically, so that no two threads take the same task."""

    def codegen(context, builder, sig, args):
        counter = builder.bitcast(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", counter, ir.IntType(64)(1), "monotonic")

    return types.int64(pointer), codegen


@intrinsic
def as_pointer(typingctx, address):
    """An address as a pointer to anything."""

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), codegen
