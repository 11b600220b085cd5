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
def prefetch(typing_context: Any, cells: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> None:
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        data = _data_of(context, builder, cells, args[0])
        # Not "inbounds": the cell need not exist.
        address = builder.bitcast(builder.gep(data, [args[1]]), byte)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag]),
            "llvm.prefetch.p0i8",
        )
        # To be read, into all caches, data.
        builder.call(function, [address, flag(0), flag(3), flag(1)])

    return types.void(cells, types.intp), generate


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


# Vectors of eight: one number of each of eight slices, see `augment.slices`.
GROUP = 8


def _data_of(context: Any, builder: Any, array: Any, value: Any) -> Any:
    """Return the address of an array's first cell."""
    return context.make_array(array)(context, builder, value).data


def _load_eight(builder: Any, data: Any, index: Any, size: int) -> Any:
    """Return eight neighbouring cells as a vector; size : bytes of a cell."""
    address = builder.gep(data, [index])
    vector = ir.VectorType(address.type.pointee, GROUP)
    return builder.load(builder.bitcast(address, vector.as_pointer()), align=size)


def _store_eight(builder: Any, vector: Any, data: Any, index: Any, size: int) -> None:
    address = builder.gep(data, [index])
    address = builder.bitcast(address, vector.type.as_pointer())
    builder.store(vector, address, align=size)


def _repeat(builder: Any, number: Any) -> Any:
    """Return a vector of eight equal numbers."""
    vector = ir.VectorType(number.type, GROUP)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return _choose(builder, first, undefined, [0] * GROUP)


def _choose(builder: Any, low: Any, high: Any, which: list[int]) -> Any:
    """Return a vector of elements of two others, of which 8 is the second's first."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(which)), which)
    return builder.shuffle_vector(low, high, mask)


def _transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """Return eight vectors, of which the k-th has the k-th elements of the eight."""
    for _ in range(3):
        pairs = [(rows[k], rows[k + 4]) for k in range(4)]
        halves = [0, 8, 1, 9, 2, 10, 3, 11], [4, 12, 5, 13, 6, 14, 7, 15]
        rows = [_choose(builder, *pair, half) for pair in pairs for half in halves]
    return rows


def _transpose_wide(builder: Any, rows: list[Any]) -> list[Any]:
    """Do the same with vectors of 256 bits.

    Only the last step moves elements between the halves of a vector: that is slow.
    """
    for distance, first, second in (
        (1, [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]),
        (2, [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]),
        (4, [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]),
    ):
        new = [*rows]
        for k in range(GROUP):
            if not k & distance:
                pair = rows[k], rows[k + distance]
                new[k] = _choose(builder, *pair, first)
                new[k + distance] = _choose(builder, *pair, second)
        rows = new
    return [rows[k] for k in (0, 2, 1, 3, 4, 6, 5, 7)]


@intrinsic  # type: ignore[untyped-decorator]
def interleave(
    typing_context: Any, cells: Any, starts: Any, count: Any, out: Any, at: Any
) -> Any:
    size = cells.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> None:
        kinds = signature.args
        source, offsets, target = (
            _data_of(context, builder, kinds[k], args[k]) for k in (0, 1, 3)
        )
        integer = ir.IntType(64)
        sources = [
            builder.gep(source, [builder.load(builder.gep(offsets, [integer(s)]))])
            for s in range(GROUP)
        ]
        target = builder.gep(target, [args[4]])
        blocks = builder.udiv(args[2], integer(GROUP))
        with cgutils.for_range(builder, blocks) as loop:
            first = builder.mul(loop.index, integer(GROUP))
            rows = [_load_eight(builder, row, first, size) for row in sources]
            to = builder.mul(first, integer(GROUP))
            for k, vector in enumerate(_transpose(builder, rows)):
                index = builder.add(to, integer(GROUP * k))
                _store_eight(builder, vector, target, index, size)

    return types.void(cells, starts, types.intp, out, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def interpolate_slices(
    typing_context: Any, cells: Any, points: Any, count: Any, stride: Any,
    scaling: Any, low: Any, high: Any, out: Any, step: Any,
) -> Any:  # fmt: skip
    size = cells.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> None:
        kinds = signature.args
        integer, number = ir.IntType(64), ir.FloatType()
        vector = ir.VectorType(number, GROUP)
        source, scales, target = (
            _data_of(context, builder, kinds[k], args[k]) for k in (0, 4, 7)
        )
        indices, across, down = (
            _data_of(context, builder, kind, builder.extract_value(args[1], k))
            for k, kind in enumerate(kinds[1])
        )
        shift = _load_eight(builder, scales, integer(0), 4)
        gain = _load_eight(builder, scales, integer(GROUP), 4)
        least, most = _repeat(builder, args[5]), _repeat(builder, args[6])
        fused = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), "llvm.fma.v8f32"
        )
        as_floats = builder.sitofp if kinds[0].dtype.signed else builder.uitofp

        def between(weight: Any, one: Any, other: Any) -> Any:
            change = builder.fsub(other, one)
            return builder.call(fused, [weight, change, one])

        def value_at(k: Any) -> Any:
            index = builder.sext(builder.load(builder.gep(indices, [k])), integer)
            x, y = (
                _repeat(builder, builder.load(builder.gep(fractions, [k])))
                for fractions in (across, down)
            )
            rows = []
            for _ in range(2):
                left, right = (
                    as_floats(
                        _load_eight(
                            builder,
                            source,
                            builder.mul(builder.add(index, integer(n)), integer(GROUP)),
                            size,
                        ),
                        vector,
                    )
                    for n in range(2)
                )
                rows.append(between(x, left, right))
                index = builder.add(index, args[3])
            value = between(y, *rows)
            value = builder.fmul(builder.fsub(value, shift), gain)
            value = builder.select(
                builder.fcmp_ordered(">", least, value), least, value
            )
            return builder.select(builder.fcmp_ordered("<", most, value), most, value)

        blocks = builder.udiv(builder.add(args[2], integer(GROUP - 1)), integer(GROUP))
        with cgutils.for_range(builder, blocks) as loop:
            first = builder.mul(loop.index, integer(GROUP))
            rows = [value_at(builder.add(first, integer(k))) for k in range(GROUP)]
            for s, line in enumerate(_transpose_wide(builder, rows)):
                start = builder.mul(args[8], integer(s))
                _store_eight(builder, line, target, builder.add(start, first), 4)

    sizes = types.intp, types.intp
    limits = types.float32, types.float32
    return types.void(
        cells, points, *sizes, scaling, *limits, out, types.intp
    ), generate
