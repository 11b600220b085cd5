"""Write memory past the caches, with non-temporal stores.

A batch is larger than the caches, and several more are written before it is read. An
ordinary store first reads the line of memory into a cache, and evicts data that is in
use. A non-temporal store does neither: where the memory of several batches is used in
turn, two threads make 1.3 times as many batches.
"""

from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastseg._kernels.jit import kernel

# Bytes that are stored at once: a cache line.
LINE = 64
# Values to compute in the first-level cache before `put` writes them.
CHUNK = 1024

if numba.config.DISABLE_JIT:

    def put(values: Any, count: int, cells: Any, start: int, streams: bool) -> None:
        """Copy values[:count] to cells[start : start + count]."""
        cells[start : start + count] = values[:count]

    def settle() -> None:
        """Make all streamed writes visible to other cores."""

else:
    # Built as LLVM instructions: a numba function would count references to its arrays,
    # which drains the buffers of non-temporal stores and halves the speed.

    @intrinsic  # type: ignore[untyped-decorator]
    def _put(
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
    def _fence(typing_context: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> None:
            builder.fence("seq_cst")

        return types.void(), generate

    @kernel
    def put(values, count, cells, start, streams):  # type: ignore[no-untyped-def]
        """Copy values[:count] to cells[start : start + count].

        values, cells : 1-D, C-contiguous, of the same dtype
        streams : bool, whether to write past the caches; then call `settle` after the
            last write
        """
        _put(values, count, cells, start, streams)

    @kernel
    def settle():  # type: ignore[no-untyped-def]
        """Make all streamed writes visible to other cores."""
        _fence()
