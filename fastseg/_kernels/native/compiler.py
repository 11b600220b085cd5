"""From a kernel to object code; the one module that uses numba's inner parts.

numba types and lowers a kernel and all that it calls. This module adds the *entry*, the
function that Python calls (see `engine`), has LLVM optimize all of it together, once,
and emits it as an object file. It runs in processes of its own (see `workers`): it
changes numba's target for all kernels of the process.

An object needs Python's C API, the C library and what `EXTERNAL` lists; what it would
need of numba's run time is put into it.
"""

import operator
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import llvmlite
import numba
from llvmlite import binding, ir
from llvmlite.binding import Linkage
from numba import _dynfunc, types
from numba.core import callconv, cgutils, codegen, cpu, pythonapi, typing
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.imputils import lower_builtin
from numba.core.registry import cpu_target
from numba.core.typed_passes import NopythonRewrites
from numba.core.untyped_passes import InlineClosureLikes
from numba.cpython.builtins import do_minmax

from fastseg._kernels.native import cache, engine, numba_kernels, signatures
from fastseg._kernels.native.external import PREFIX
from fastseg._kernels.native.signatures import Array, Number, Record, Signature, Type

if TYPE_CHECKING:
    from fastseg._kernels.jit import Kernel

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
DOUBLE, VOID = ir.DoubleType(), ir.VoidType()
POINTER = I8.as_pointer()
# What objects may need from outside, beside functions of Python ("Py", "_Py") and
# those of `system` (PREFIX).
EXTERNAL = (
    *("memcpy", "memmove", "memset", "memcmp", "malloc", "free"),
    *("exp", "log", "log2", "pow", "frexp", "ldexp", "fmod", "sin", "cos", "atan2"),
    *("floor", "ceil", "rint", "round", "trunc", "sqrt", "sqrtf"),
    *("expf", "logf", "powf", "fmaf", "fma"),
)
VERSIONS = {"numba": numba.__version__, "llvmlite": llvmlite.__version__}
# A counter of compiled functions, in the names that numba gives them.
COUNT = re.compile(r"B\d+v\d+")


class _Library(codegen.AOTCodeLibrary):  # type: ignore[misc]
    """Code of a kernel; optimized once, together with the entry."""

    entry = ""  # the one function that is called from outside, if this is all code

    def finalize(self) -> None:
        """Link the code of all that a kernel calls, once; as numba at each caller."""
        if self.entry:
            # Callers come first: LLVM leaves out what nothing needs yet.
            self._linking_libraries = [*reversed(_with_callees(self, {}))][1:]
            super().finalize()
        self._finalized = True

    def _optimize_functions(self, module: Any) -> None:
        pass

    def _optimize_final_module(self) -> None:
        # Names of numba's own functions are unique only within a process, and objects
        # of several are loaded into one. Variables that nothing uses go away.
        module = self._final_module
        for part in (*module.functions, *module.global_variables):
            if not part.is_declaration and part.name != self.entry:
                part.linkage = "internal"
        # numba counts a reference at each use of an array in a NamedTuple, in inner
        # loops too. Once kernels are inlined into others, it no longer sees which
        # counts cancel: a contour of many vertices then takes 1.4 times as long.
        super()._optimize_functions(module)
        # Without numba's cheap passes before it: after them, LLVM no longer vectorizes
        # random numbers, which then take three times as long.
        managers = self._codegen._module_pass_manager()
        if isinstance(managers, tuple):
            managers[0].run(module, managers[1])
        else:  # before numba 0.62
            managers.run(module)
        for part in (*module.functions, *module.global_variables):
            if part.linkage == Linkage.internal:
                part.name = COUNT.sub("", part.name)


def _with_callees(library: Any, found: dict[Any, None]) -> dict[Any, None]:
    """Add all libraries that a library needs to those found, and then itself."""
    for callee in library._linking_libraries:
        if callee not in found:
            _with_callees(callee, found)
    found[library] = None
    return found


class _Codegen(codegen.AOTCPUCodegen):  # type: ignore[misc]
    """Makes code for one processor level, and none that runs in this process."""

    _library_class = _Library

    def set_env(self, name: str, env: Any) -> None:
        pass

    def _function_pass_manager(self, *module: Any) -> Any:
        # As much as it takes to see references that cancel.
        return super()._function_pass_manager(*module, opt=1)

    def _customize_tm_features(self) -> str:
        # Compilers are cautious of 512 bits in code for any processor of a level.
        # Noise takes 0.85 of the time with them, a bias field 0.7.
        return "-prefer-256-bit"


class _Pipeline(CompilerBase):  # type: ignore[misc]
    """Compiles a kernel without passes that kernels do not need.

    They inline closures, and fuse expressions of whole arrays: 5 % of the time.
    """

    def define_pipelines(self) -> list[Any]:
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        unneeded = (InlineClosureLikes, NopythonRewrites)
        manager.passes = [step for step in manager.passes if step[0] not in unneeded]
        manager.finalize()
        return [manager]


def _remember_types(function: Any, context: Any, args: Any, kws: Any) -> Any:
    """Return the signature of a call of a built-in function.

    numba asks a dozen of rules for the type of each sum of two numbers. To remember the
    answers saves a quarter of the time.
    """
    if kws or not all(isinstance(kind, _NUMBERS) for kind in args):
        return _find_types(function, context, args, kws)
    remembered = function.__dict__.setdefault("_remembered", {})
    if args not in remembered:
        if function.typing_key in _EXTREMES and len(args) == 2:
            plain = tuple(map(types.unliteral, args))
            signature = typing.signature(context.unify_types(*plain), *plain)
            function._impl_keys[plain] = _EXTREMES[function.typing_key]
        else:
            signature = _find_types(function, context, args, kws)
        remembered[args] = signature
    return remembered[args]


@lower_builtin("lesser", types.Any, types.Any)  # type: ignore[untyped-decorator]
def _lesser(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    """Return min of two numbers: numba compiles a function for each pair of types."""
    return do_minmax(context, builder, signature.args, values, operator.lt)


@lower_builtin("greater", types.Any, types.Any)  # type: ignore[untyped-decorator]
def _greater(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    """Return max of two numbers."""
    return do_minmax(context, builder, signature.args, values, operator.gt)


_EXTREMES = {min: "lesser", max: "greater"}


_NUMBERS = types.Number, types.Boolean
_find_types = types.Function.get_call_type


def _no_executable(context: Any, library: Any, fndesc: Any, env: Any) -> Any:
    """Finish a library; return a new object that stands for it."""
    library._ensure_finalized()
    name = fndesc.qualname.split(".")[-1]
    return _dynfunc.make_function(fndesc.lookup_module(), name, "", 0, env, (library,))


def _load_registries(context: Any) -> None:
    """Add what has been registered since; without importing numba's modules again."""
    for registry in [*context._registries]:
        context.install_registry(registry)


def _no_exception(api: Any, exception: Any) -> Any:
    """Return what stands for an exception: entries do not read it, see `_Entry`.

    It would be a pickle, with the path of the source.
    """
    return ir.Constant(callconv.excinfo_ptr_t, None)


def set_level(level: str) -> None:
    """Make all code of this process for a processor level, not for running here."""
    numba_kernels.only_code.update(
        no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=_Pipeline
    )
    types.Function.get_call_type = _remember_types
    cpu.CPUContext.get_executable = _no_executable
    pythonapi.PythonAPI.serialize_object = _no_exception
    # LLVM would check once for all rows of an array whether a loop over two rows can be
    # vectorized; that they do not overlap shows only row by row. A blur takes 0.4 of
    # the time without this.
    if binding.llvm_version_info >= (17,):
        binding.set_option("fastseg", "-hoist-runtime-checks=false")
    cpu_target.target_context.refresh()
    cpu.CPUContext.load_additional_registries = _load_registries
    cpu_target.target_context._internal_codegen = _Codegen("fastseg", level)


def compile_entry(kernel: "Kernel", signature: Signature) -> bytes:
    """Return the object code of a kernel for a signature; after `set_level`."""
    numba_types = tuple(map(_numba_type, signature))
    with global_compiler_lock:
        dispatcher = kernel.dispatcher
        dispatcher.compile(numba_types)
        result = dispatcher.overloads[numba_types]
        library = result.target_context.codegen().create_library(kernel.__name__)
        library.entry = cache.symbol_of(kernel.path, signatures.join(signature))
        library.add_linking_library(result.library)
        module = library.create_ir_module(kernel.__name__)
        _Entry(module, result, kernel, signature).build()
        _define_runtime(module)
        library.add_ir_module(module)
        library.finalize()
        _check_symbols(library, kernel)
        code: bytes = library.emit_native_object()
        return code


def _numba_type(kind: Type) -> Any:
    if isinstance(kind, Record):
        fields = tuple(map(_numba_type, kind.fields))
        if len(set(fields)) == 1:
            return types.NamedUniTuple(fields[0], len(fields), kind.made_by)
        return types.NamedTuple(fields, kind.made_by)
    if isinstance(kind, Array):
        dtype = getattr(types, "boolean" if kind.dtype == "bool" else kind.dtype)
        layout = "C" if kind.contiguous else "A"
        return types.Array(dtype, kind.ndim, layout, readonly=kind.constant)
    return getattr(types, {"bool": "boolean"}.get(kind.name, kind.name))


def _check_symbols(library: Any, kernel: "Kernel") -> None:
    for function in library._final_module.functions:
        name = function.name
        if function.is_declaration and not (
            name in EXTERNAL or name.startswith(("Py", "_Py", "llvm.", PREFIX))
        ):
            raise RuntimeError(f"the object code of {kernel.__name__} needs {name}")


class _Entry:
    """Builds the entry of a kernel in LLVM's language."""

    def __init__(
        self, module: Any, result: Any, kernel: "Kernel", signature: Signature
    ) -> None:
        self.module, self.result = module, result
        self.kernel, self.signature = kernel, signature
        self.context = result.target_context
        self.argument_types = result.signature.args
        form = ir.FunctionType(POINTER, [POINTER, POINTER, I64])
        self.function = ir.Function(
            module, form, cache.symbol_of(kernel.path, signatures.join(signature))
        )
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.declined = self.function.append_basic_block("declined")

    def build(self) -> None:
        """Check and unpack the arguments, call the kernel, and pack what it returns."""
        builder, (own, arguments, count) = self.builder, self.function.args
        self._need(builder.icmp_signed("==", count, I64(len(self.signature))))
        self._array = self._item(own, 1)
        self._classes = iter(
            self._item(own, len(engine.Context._fields) + k)
            for k in range(len(signatures.records(self.signature)))
        )
        self._none = self._global("_Py_NoneStruct")
        values = [
            self._unpack(self._load(arguments, 8 * k, POINTER), kind, numba_type)
            for k, (kind, numba_type) in enumerate(
                zip(self.signature, self.argument_types, strict=True)
            )
        ]
        returned = self.result.signature.return_type
        convention = self.context.call_conv
        callee = ir.Function(
            self.module,
            convention.get_function_type(returned, self.argument_types),
            self.result.fndesc.llvm_func_name,
        )
        if self.kernel.nogil:
            thread = self._call("PyEval_SaveThread", POINTER)
        status, value = convention.call_function(
            builder, callee, returned, self.argument_types, values
        )
        if self.kernel.nogil:
            self._call("PyEval_RestoreThread", VOID, thread)
        with builder.if_then(status.is_error, likely=False):
            # Kernels do not raise; they fail only where memory does.
            builder.ret(self._call("PyErr_NoMemory", POINTER))
        builder.ret(self._pack(returned, value))
        builder.position_at_end(self.declined)
        builder.ret(
            self._call(
                "PyObject_Vectorcall",
                POINTER,
                self._item(own, 0),
                arguments,
                count,
                ir.Constant(POINTER, None),
            )
        )

    def _call(self, name: str, returned: Any, *values: Any) -> Any:
        form = ir.FunctionType(returned, [value.type for value in values])
        function = cgutils.get_or_insert_function(self.module, form, name)
        return self.builder.call(function, values)

    def _global(self, name: str) -> Any:
        """Return the address of a variable of Python's."""
        variable = self.module.globals.get(name)
        if variable is None:
            variable = ir.GlobalVariable(self.module, I8, name)
            variable.linkage = "external"
        return variable

    def _load(self, address: Any, offset: int, kind: Any) -> Any:
        at = self.builder.gep(address, [I64(offset)])
        return self.builder.load(self.builder.bitcast(at, kind.as_pointer()))

    def _item(self, tuple_object: Any, index: int) -> Any:
        return self._load(tuple_object, engine.ITEMS + 8 * index, POINTER)

    def _need(self, condition: Any) -> None:
        """Go on if the condition holds; else decline the call."""
        block = self.function.append_basic_block("ok")
        self.builder.cbranch(condition, block, self.declined)
        self.builder.position_at_end(block)

    def _need_equal(self, value: Any, wanted: Any) -> None:
        self._need(self.builder.icmp_unsigned("==", value, wanted))

    def _unpack(self, value: Any, kind: Type, numba_type: Any) -> Any:
        """Check an object, and return its value as numba has it."""
        if isinstance(kind, Record):
            self._need_equal(
                self._load(value, engine.TYPE, POINTER), next(self._classes)
            )
            self._need_equal(self._load(value, engine.HEAD, I64), I64(len(kind.fields)))
            fields = [
                self._unpack(self._item(value, k), field, field_type)
                for k, (field, field_type) in enumerate(
                    zip(kind.fields, numba_type, strict=True)
                )
            ]
            return self.context.make_tuple(self.builder, numba_type, fields)
        if isinstance(kind, Array):
            return self._unpack_array(value, kind, numba_type)
        if kind == signatures.NONE:
            self._need_equal(value, self._none)
            return self.context.get_dummy_value()
        if kind.name == "bool":
            is_true = self.builder.icmp_unsigned(
                "==", value, self._global("_Py_TrueStruct")
            )
            is_false = self.builder.icmp_unsigned(
                "==", value, self._global("_Py_FalseStruct")
            )
            self._need(self.builder.or_(is_true, is_false))
            return is_true
        if kind.name == "float64":
            own_type = self._load(value, engine.TYPE, POINTER)
            self._need_equal(own_type, self._global("PyFloat_Type"))
            return self._load(value, engine.HEAD, DOUBLE)
        return self._unpack_integer(value, kind)

    def _unpack_integer(self, value: Any, kind: Number) -> Any:
        builder = self.builder
        own_type = self._load(value, engine.TYPE, POINTER)
        self._need_equal(own_type, self._global("PyLong_Type"))
        low, high = signatures.INTEGERS[kind.name]
        if high > signatures.INTEGERS["int64"][1]:
            number = self._call("PyLong_AsUnsignedLongLong", I64, value)
            raised = self._call("PyErr_Occurred", POINTER)
            fits = builder.icmp_unsigned("==", raised, ir.Constant(POINTER, None))
            with builder.if_then(builder.not_(fits), likely=False):
                self._call("PyErr_Clear", VOID)
            self._need(fits)
            return number
        overflow = cgutils.alloca_once(builder, I32)
        number = self._call("PyLong_AsLongLongAndOverflow", I64, value, overflow)
        self._need_equal(builder.load(overflow), I32(0))
        self._need(builder.icmp_signed(">=", number, I64(low)))
        self._need(builder.icmp_signed("<=", number, I64(high)))
        bits = int(kind.name.lstrip("uint"))
        return builder.trunc(number, ir.IntType(bits)) if bits < 64 else number

    def _unpack_array(self, value: Any, kind: Array, numba_type: Any) -> Any:
        builder, load = self.builder, self._load
        self._need_equal(load(value, engine.TYPE, POINTER), self._array)
        self._need_equal(load(value, engine.NDIM, I32), I32(kind.ndim))
        dtype = load(value, engine.DTYPE, POINTER)
        wanted = _dtype_of(kind)
        self._need_equal(load(dtype, engine.KIND, I8), I8(ord(wanted.kind)))
        order = load(dtype, engine.BYTE_ORDER, I8)  # "<" is native here, as "=" is
        self._need(builder.icmp_unsigned("!=", order, I8(ord(">"))))
        size = load(dtype, engine.ITEM_SIZE, I64)
        self._need_equal(size, I64(wanted.itemsize))
        bits = engine.ALIGNED
        bits |= engine.CONTIGUOUS * kind.contiguous
        bits |= engine.WRITEABLE * (not kind.constant)
        flags = load(value, engine.FLAGS, I32)
        self._need_equal(builder.and_(flags, I32(bits)), I32(bits))
        axes = range(kind.ndim)
        dimensions = load(value, engine.DIMENSIONS, POINTER)
        strides = load(value, engine.STRIDES, POINTER)
        shape = [load(dimensions, 8 * axis, I64) for axis in axes]
        items = I64(1)
        for length in shape:
            items = builder.mul(items, length)
        array = self.context.make_array(numba_type)(self.context, builder)
        array.data = builder.bitcast(load(value, engine.DATA, POINTER), array.data.type)
        array.nitems, array.itemsize = items, size
        array.shape = cgutils.pack_array(builder, shape, ty=I64)
        array.strides = cgutils.pack_array(
            builder, [load(strides, 8 * axis, I64) for axis in axes], ty=I64
        )
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        array.parent = cgutils.get_null_value(array.parent.type)
        return array._getvalue()

    def _pack(self, numba_type: Any, value: Any) -> Any:
        """Return a new object for what the kernel returned."""
        builder = self.builder
        if numba_type == types.none:
            self._call("Py_IncRef", VOID, self._none)
            return self._none
        if isinstance(numba_type, types.BaseTuple):
            result = self._call("PyTuple_New", POINTER, I64(len(numba_type)))
            for k, item_type in enumerate(numba_type):
                item = self._pack(item_type, builder.extract_value(value, k))
                self._call("PyTuple_SetItem", I32, result, I64(k), item)
            return result
        if isinstance(numba_type, types.Boolean):
            return self._call("PyBool_FromLong", POINTER, builder.zext(value, I64))
        if isinstance(numba_type, types.Integer):
            sign = numba_type.signed
            if numba_type.bitwidth < 64:
                value = (builder.sext if sign else builder.zext)(value, I64)
            name = "PyLong_FromLongLong" if sign else "PyLong_FromUnsignedLongLong"
            return self._call(name, POINTER, value)
        if numba_type == types.float64:
            return self._call("PyFloat_FromDouble", POINTER, value)
        raise TypeError(f"{self.kernel.__name__} returns {numba_type}, see `entry`")


def _dtype_of(kind: Array) -> Any:
    return next(d for d, name in signatures.DTYPES.items() if name == kind.dtype)


@contextmanager
def _function(
    module: Any, name: str, returned: Any, *arguments: Any
) -> Iterator[tuple[Any, Any]]:
    """Define a function that every object may have; yields a builder, and arguments."""
    form = ir.FunctionType(returned, arguments)
    function = cgutils.get_or_insert_function(module, form, name)
    function.linkage = "weak_odr"  # kept until all is linked
    yield ir.IRBuilder(function.append_basic_block("entry")), function.args


def _define_runtime(module: Any) -> None:
    """Define what kernels use of numba's run time written in C.

    A block of memory begins with six words: a count of references, two for a
    destructor, the address and size of the data, and one for an allocator.
    """
    words = 6
    with _function(module, "NRT_MemInfo_alloc_aligned", POINTER, I64, I32) as (
        builder,
        (size, alignment),
    ):
        alignment = builder.zext(alignment, I64)
        total = builder.add(builder.add(size, I64(8 * words)), alignment)
        form = ir.FunctionType(POINTER, [I64])
        malloc = cgutils.get_or_insert_function(module, form, "malloc")
        # Sizes come from arrays that fit into memory; a sum that wraps around does not.
        wraps = builder.icmp_unsigned("<", total, size)
        block = builder.call(malloc, [builder.select(wraps, I64(-1), total)])
        failed = builder.icmp_unsigned("==", block, ir.Constant(POINTER, None))
        with builder.if_then(failed, likely=False):
            builder.ret(ir.Constant(POINTER, None))
        start = builder.add(builder.ptrtoint(block, I64), I64(8 * words))
        mask = builder.sub(alignment, I64(1))
        start = builder.and_(builder.add(start, mask), builder.not_(mask))
        place = builder.bitcast(block, I64.as_pointer())
        for k, value in enumerate((I64(1), I64(0), I64(0), start, size, I64(0))):
            builder.store(value, builder.gep(place, [I64(k)]))
        builder.ret(block)
    with _function(module, "NRT_MemInfo_call_dtor", VOID, POINTER) as (builder, args):
        form = ir.FunctionType(VOID, [POINTER])
        free = cgutils.get_or_insert_function(module, form, "free")
        builder.call(free, args)
        builder.ret_void()
    with _function(module, "numba_frexp", DOUBLE, DOUBLE, I32.as_pointer()) as (
        builder,
        args,
    ):  # of a finite number
        form = ir.FunctionType(DOUBLE, [DOUBLE, I32.as_pointer()])
        frexp = cgutils.get_or_insert_function(module, form, "frexp")
        builder.ret(builder.call(frexp, args))
