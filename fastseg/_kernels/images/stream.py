"""Writing past the caches: for memory that nobody reads for a while.

A batch is larger than the caches, and so are the batches ahead of it. Written in the
usual way, each line of memory is first read into a cache, and drives out what is used.
Non-temporal stores do neither: where several batches take turns, two threads make 1.3
times as many.
"""

from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastseg._kernels.jit import kernel

# Bytes that are stored at once: a line of the caches.
LINE = 64
# Values that are made in the first cache, and then sent off.
CHUNK = 1024

if numba.config.DISABLE_JIT:

    def put(values: Any, count: int, cells: Any, start: int, streams: bool) -> None:
        """Copy values[:count] to cells[start : start + count]."""
        cells[start : start + count] = values[:count]

    def settle() -> None:
        """Let all that was streamed be seen by other cores."""

else:
    # In LLVM's own terms: a function of numba's would count references to its arrays,
    # which drains the buffers of non-temporal stores, at half the speed.

    @intrinsic  # type: ignore[untyped-decorator]
    def _put(
        typing_context: Any, values: Any, count: Any, cells: Any, start: Any, on: Any
    ) -> Any:
        size = cells.dtype.bitwidth // 8

        def generate(context: Any, builder: Any, signature: Any, given: Any) -> None:
            kinds = signature.args
            number = context.get_value_type(types.intp)
            source = context.make_array(kinds[0])(context, builder, given[0]).data
            target = context.make_array(kinds[2])(context, builder, given[2]).data
            target, count = builder.gep(target, [given[3]]), given[1]

            def copy(done: Any, more: Any) -> None:
                pair = (builder.gep(pointer, [done]) for pointer in (target, source))
                cgutils.raw_memcpy(builder, *pair, more, size)

            def constant(value: int) -> Any:
                return ir.Constant(number, value)

            # Up to the first address that is a multiple of LINE.
            beyond = builder.neg(builder.ptrtoint(target, number))
            beyond = builder.and_(beyond, constant(LINE - 1))
            beyond = builder.udiv(beyond, constant(size))
            is_short = builder.icmp_signed("<", count, beyond)
            head = builder.select(is_short, count, beyond)
            copy(constant(0), head)
            each = constant(LINE // size)
            lines = builder.udiv(builder.sub(count, head), each)
            line = ir.VectorType(context.get_data_type(kinds[2].dtype), LINE // size)

            def copy_lines(mark: Any) -> None:
                with cgutils.for_range(builder, lines) as loop:
                    place = builder.add(head, builder.mul(loop.index, each))
                    source_line, target_line = (
                        builder.bitcast(builder.gep(data, [place]), line.as_pointer())
                        for data in (source, target)
                    )
                    loaded = builder.load(source_line, align=1)
                    stored = builder.store(loaded, target_line, align=LINE)
                    if mark is not None:
                        stored.set_metadata("nontemporal", mark)

            one = ir.Constant(ir.IntType(32), 1)
            with builder.if_else(given[4]) as (streamed, plain):
                with streamed:
                    copy_lines(builder.module.add_metadata([one]))
                with plain:
                    copy_lines(None)
            done = builder.add(head, builder.mul(lines, each))
            copy(done, builder.sub(count, done))

        return (
            types.void(values, types.intp, cells, types.intp, types.boolean),
            generate,
        )

    @intrinsic  # type: ignore[untyped-decorator]
    def _fence(typing_context: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> None:
            builder.fence("seq_cst")

        return types.void(), generate

    @kernel
    def put(values, count, cells, start, streams):  # type: ignore[no-untyped-def]
        """Copy values[:count] to cells[start : start + count].

        values, cells : 1-D of one dtype, C-contiguous
        streams : past the caches; then `settle` comes after the last one
        """
        _put(values, count, cells, start, streams)

    @kernel
    def settle():  # type: ignore[no-untyped-def]
        """Let all that was streamed be seen by other cores."""
        _fence()
