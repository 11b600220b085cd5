"""Functions for kernels that Python and numba cannot say, as LLVM instructions."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.imputils import impl_ret_borrowed, impl_ret_new_ref
from numba.core.typing import npydecl
from numba.extending import intrinsic
from numba.np import arrayobj

# Bytes that `put` stores at once: a cache line.
LINE = 64


@intrinsic  # type: ignore[untyped-decorator]
def trailing_zeros(typing_context: Any, bits: Any) -> Any:
    """Return the index of the lowest set bit of a uint64 that is not 0.

    One instruction: masks take 1.3 times as long with a lookup table.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, float32, rounded once.

    One instruction instead of two, and the same bits on every machine: compilers
    fuse a product and a sum only where code asks for it.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.fma(*values)

    return types.float32(types.float32, types.float32, types.float32), generate


@intrinsic  # type: ignore[untyped-decorator]
def read_only(typing_context: Any, array: Any) -> Any:
    """Return a view that cannot be written to.

    A kernel that takes it need not be compiled again: the code for read-only
    arrays, which Python makes from bytes, serves both.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = signature.return_type
        return impl_ret_borrowed(context, builder, kind, values[0])

    return array.copy(readonly=True)(array), generate


@intrinsic  # type: ignore[untyped-decorator]
def put(
    typing_context: Any,
    values: Any,
    count: Any,
    cells: Any,
    start: Any,
    streams: Any,
) -> Any:
    size = cells.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> None:
        argtypes = signature.args
        index_type = context.get_value_type(types.intp)
        source = context.make_array(argtypes[0])(context, builder, args[0]).data
        target = context.make_array(argtypes[2])(context, builder, args[2]).data
        target = builder.gep(target, [args[3]])
        count = args[1]

        def copy(first: Any, length: Any) -> None:
            pair = (builder.gep(pointer, [first]) for pointer in (target, source))
            cgutils.raw_memcpy(builder, *pair, length, size)

        def constant(value: int) -> Any:
            return ir.Constant(index_type, value)

        # Copy the head, up to the first address that is a multiple of LINE.
        unaligned = builder.neg(builder.ptrtoint(target, index_type))
        unaligned = builder.and_(unaligned, constant(LINE - 1))
        unaligned = builder.udiv(unaligned, constant(size))
        is_short = builder.icmp_signed("<", count, unaligned)
        head = builder.select(is_short, count, unaligned)
        copy(constant(0), head)
        per_line = constant(LINE // size)
        lines = builder.udiv(builder.sub(count, head), per_line)
        line = ir.VectorType(context.get_data_type(argtypes[2].dtype), LINE // size)

        def copy_lines(metadata: Any) -> None:
            with cgutils.for_range(builder, lines) as loop:
                index = builder.add(head, builder.mul(loop.index, per_line))
                source_line, target_line = (
                    builder.bitcast(builder.gep(data, [index]), line.as_pointer())
                    for data in (source, target)
                )
                loaded = builder.load(source_line, align=1)
                stored = builder.store(loaded, target_line, align=LINE)
                if metadata is not None:
                    stored.set_metadata("nontemporal", metadata)

        one = ir.Constant(ir.IntType(32), 1)
        with builder.if_else(args[4]) as (streamed, ordinary):
            with streamed:
                copy_lines(builder.module.add_metadata([one]))
            with ordinary:
                copy_lines(None)
        done = builder.add(head, builder.mul(lines, per_line))
        copy(done, builder.sub(count, done))

    return (
        types.void(values, types.intp, cells, types.intp, types.boolean),
        generate,
    )


@intrinsic  # type: ignore[untyped-decorator]
def settle(typing_context: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> None:
        builder.fence("seq_cst")

    return types.void(), generate


@intrinsic  # type: ignore[untyped-decorator]
def flat(typing_context: Any, array: Any) -> Any:
    """Return all cells of a C-contiguous array as a 1-D array: a view."""
    if array.layout != "C":
        raise TypingError(f"flat takes C-contiguous arrays, not {array}")
    returned = array.copy(ndim=1)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        given = context.make_array(array)(context, builder, args[0])
        result = context.make_array(returned)(context, builder)
        arrayobj.populate_array(
            result,
            data=given.data,
            shape=cgutils.pack_array(builder, [given.nitems]),
            strides=cgutils.pack_array(builder, [given.itemsize]),
            itemsize=given.itemsize,
            meminfo=given.meminfo,
            parent=given.parent,
        )
        value = result._getvalue()
        return impl_ret_borrowed(context, builder, returned, value)

    return returned(array), generate


def _view(array: Any, dtype: Any, overlaps: bool) -> Any:
    """Return the signature and the code of `reinterpret` and `overlapping`."""
    if array.layout != "C" or array.ndim != 1:
        raise TypingError(f"1-D C-contiguous arrays are viewed, not {array}")
    returned = array.copy(
        dtype=npydecl.parse_dtype(dtype), layout="A" if overlaps else "C"
    )

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        given = context.make_array(array)(context, builder, args[0])
        result = context.make_array(returned)(context, builder)
        size = ir.Constant(given.itemsize.type, returned.dtype.bitwidth // 8)
        if overlaps:
            count, step = builder.sub(given.nitems, size.type(1)), given.itemsize
        else:
            count = builder.udiv(builder.mul(given.nitems, given.itemsize), size)
            step = size
        arrayobj.populate_array(
            result,
            data=builder.bitcast(given.data, result.data.type),
            shape=cgutils.pack_array(builder, [count]),
            strides=cgutils.pack_array(builder, [step]),
            itemsize=size,
            meminfo=given.meminfo,
            parent=given.parent,
        )
        value = result._getvalue()
        return impl_ret_borrowed(context, builder, returned, value)

    return returned(array, dtype), generate


@intrinsic  # type: ignore[untyped-decorator]
def reinterpret(typing_context: Any, array: Any, dtype: Any) -> Any:
    """Return the bytes of a C-contiguous 1-D array as another dtype: a view."""
    return _view(array, dtype, False)


@intrinsic  # type: ignore[untyped-decorator]
def overlapping(typing_context: Any, array: Any, dtype: Any) -> Any:
    """Return a view of which item k has the bytes of items k and k + 1 of an array."""
    return _view(array, dtype, True)


def _allocate(shape: Any, dtype: Any, is_zero: bool) -> Any:
    """Return the signature and the code of `empty` and `zeros`.

    numba's own compile a function for each shape and dtype, a thirtieth of a second.
    """
    returned = types.Array(npydecl.parse_dtype(dtype), npydecl.parse_shape(shape), "C")

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sizes = arrayobj._parse_shape(context, builder, signature.args[0], args[0])
        array = arrayobj._empty_nd_impl(context, builder, returned, sizes)
        if is_zero:
            size = builder.mul(array.itemsize, array.nitems)
            cgutils.memset(builder, array.data, size, 0)
        return impl_ret_new_ref(context, builder, returned, array._getvalue())

    return returned(shape, dtype), generate


@intrinsic  # type: ignore[untyped-decorator]
def empty(typing_context: Any, shape: Any, dtype: Any) -> Any:
    """Return a new array, as numpy.empty does."""
    return _allocate(shape, dtype, False)


@intrinsic  # type: ignore[untyped-decorator]
def zeros(typing_context: Any, shape: Any, dtype: Any) -> Any:
    """Return a new array of zeros, as numpy.zeros does."""
    return _allocate(shape, dtype, True)
