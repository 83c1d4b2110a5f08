"""torch.compile(model) with PyTorch's default backend, inductor, on accel tensors.

Inductor writes C++ for the host. Called directly, such a kernel would read memory that is still
pending, so each call of one is recorded as a Node and runs on the stream in its turn; whatever
inductor leaves to ATen goes through the dispatcher as always. backend="accel" needs no compiler.

Imported when somebody imports inductor, and by the code that inductor generates.
"""

import ctypes
import functools
import hashlib
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch._inductor.async_compile import get_compile_threads
from torch._inductor.codecache import CppCodeCache, LambdaFuture
from torch._inductor.codegen.common import (
    DeviceOpOverrides,
    register_backend_for_device,
    register_device_op_overrides,
)
from torch._inductor.codegen.cpp import CppScheduling
from torch._inductor.codegen.wrapper import PythonWrapperCodegen, SubgraphPythonWrapperCodegen
from torch._inductor.custom_graph_pass import CustomGraphModulePass
from torch._inductor.scheduler import BaseSchedulerNode
from torch._inductor.virtualized import V

import torch_accel
from torch_accel import _C

_INSTEAD = 'use torch.compile(..., backend="accel") instead'
# Stands in the source of a kernel for accel: the same loops for the CPU are another kernel.
_MARK = "// accel\n"
_BINDING = "async_compile.cpp_pybinding("


def register() -> None:
    """Tells inductor about the device."""
    register_backend_for_device(
        "accel",
        Scheduling,
        Wrapper,
        _unsupported("cpp_wrapper and AOTInductor"),
        _unsupported("the FX wrapper"),
        GraphCheck(),
    )
    register_device_op_overrides("accel", OpOverrides())
    _patch_scheduler()


def _patch_scheduler() -> None:
    # Some fusions expect loops of the GPU backends and are skipped where a node is_cpu(). Those of
    # accel are the CPU's, too. Can go when torch asks the Scheduling for its features.
    original = BaseSchedulerNode.is_cpu

    def is_cpu(self: BaseSchedulerNode) -> bool:
        device = self.get_device()
        return original(self) or (device is not None and device.type == "accel")

    BaseSchedulerNode.is_cpu = is_cpu


def compiled_kernel(async_compile: Any, name: str, argument_types: list[str], source: str) -> Any:
    """What generated code calls for each kernel: inductor's C++, compiled with inductor's compiler
    and flags and kept in its cache. Returns the kernel or, where compile processes are at work, a
    future of it, as AsyncCompile.cpp_pybinding() does."""
    parameters = "".join(_parameter(kind) for kind in argument_types)
    get_library = _Libraries.load_async(
        _launcher(argument_types),
        # Of a lock that load_async() holds meanwhile, this process must not wait.
        submit_fn=async_compile.submit if get_compile_threads() > 1 else None,
        optimized_code=source,
    )

    def load() -> _C.CompiledKernel:
        function = ctypes.cast(get_library().launch, ctypes.c_void_p).value
        return _C.CompiledKernel(name, function, parameters)

    return LambdaFuture(load) if get_compile_threads() > 1 else load()


class _Libraries(CppCodeCache):
    """Inductor's cache of shared libraries, with the flags that it has for kernels."""

    cpp_compile_command_flags: ClassVar[dict[str, Any]] = {"include_pytorch": False}


def _launcher(argument_types: list[str]) -> str:
    """A function that takes the address of each argument and calls the kernel."""
    kinds = [_opaque(kind) for kind in argument_types]
    values = ", ".join(f"*({kind}*)arguments[{index}]" for index, kind in enumerate(kinds))
    return (
        "#include <cstdint>\n"
        f'extern "C" void kernel({", ".join(kinds)});\n'
        f'extern "C" void launch(void** arguments) {{ kernel({values}); }}\n'
    )


def _opaque(kind: str) -> str:
    """The type as C passes it: one type stands for all pointers."""
    return "void*" if kind.endswith("*") else kind.removeprefix("const ")


def _parameter(kind: str) -> str:
    if kind.endswith("*"):
        return "r" if kind.startswith("const ") else "w"
    return {"int64_t": "i", "float": "f"}[_opaque(kind)]


class Scheduling(CppScheduling):
    """Inductor's loops for the CPU, as kernels of accel."""

    def __init__(self, scheduler: Any):
        if not _C.host_addressable():
            raise RuntimeError(
                f"inductor's kernels run on the host, which cannot address the memory of this "
                f"device; {_INSTEAD}"
            )
        super().__init__(scheduler)

    def codegen_node(self, node: Any) -> None:
        # What asks for the device meanwhile wants to know whose loops these are.
        with V.graph.set_current_device(torch.device("cpu")):
            super().codegen_node(node)

    def define_kernel(self, src_code: str, nodes: Any, kernel_args: Any = None) -> str:
        return super().define_kernel(_MARK + src_code, nodes, kernel_args)


class _AccelWrapper:
    """What the Python code around the kernels does differently for accel."""

    def define_kernel(
        self,
        kernel_name: str,
        kernel_body: str,
        metadata: str | None = None,
        gpu: bool = True,
        cpp_definition: str | None = None,
    ) -> None:
        if _MARK in kernel_body:
            call = f"compiled_kernel(async_compile, {kernel_name!r}, "
            kernel_body = kernel_body.replace(_BINDING, call, 1)
        super().define_kernel(kernel_name, kernel_body, metadata, gpu, cpp_definition)

    def _generate_kernel_call_helper(
        self, kernel_name: str, call_args: list[str], *, triton: bool = True, **options: Any
    ) -> None:
        if triton:
            super()._generate_kernel_call_helper(kernel_name, call_args, triton=triton, **options)
        else:
            self.writeline(self.wrap_kernel_call(kernel_name, call_args))


class Wrapper(_AccelWrapper, PythonWrapperCodegen):
    @staticmethod
    def create(
        is_subgraph: bool,
        subgraph_name: str | None,
        parent_wrapper: PythonWrapperCodegen | None,
        partition_signatures: Any = None,
    ) -> PythonWrapperCodegen:
        if is_subgraph:
            return SubgraphWrapper(subgraph_name, parent_wrapper, partition_signatures)
        return Wrapper()

    def write_header(self) -> None:
        super().write_header()
        self.header.splice("from torch_accel.inductor import compiled_kernel")


class SubgraphWrapper(_AccelWrapper, SubgraphPythonWrapperCodegen):
    pass


def _unsupported(what: str) -> type:
    class Unsupported(PythonWrapperCodegen):
        @staticmethod
        def create(*_: Any) -> None:
            raise NotImplementedError(f"{what} of inductor cannot run on accel; {_INSTEAD}")

    return Unsupported


class OpOverrides(DeviceOpOverrides):
    """How generated Python code names the device's functions."""

    def import_get_raw_stream_as(self, name: str) -> str:
        return f"def {name}(index):\n    return torch.accel.current_stream(index).stream_id\n"

    def set_device(self, device_idx: int) -> str:
        return f"torch.accel.set_device({device_idx})"

    def synchronize(self) -> str:
        return "torch.accel.synchronize()"

    def device_guard(self, device_idx: int) -> str:
        return f"torch.accel.device({device_idx})"

    def current_stream(self) -> str:
        return "torch.accel.current_stream()"


class GraphCheck(CustomGraphModulePass):
    """Refuses what inductor has for other devices only. Its uuid is part of the key under which
    inductor keeps graphs on disk: those of another torch_accel are not used."""

    def __call__(self, module: torch.fx.GraphModule) -> None:
        for node in module.graph.nodes:
            if node.target in _FLEX_ATTENTION:
                raise NotImplementedError(
                    f"flex_attention of inductor cannot run on accel; {_INSTEAD}"
                )

    def uuid(self) -> str:
        return _fingerprint()


_FLEX_ATTENTION = (
    torch.ops.higher_order.flex_attention,
    torch.ops.higher_order.flex_attention_backward,
)


@functools.cache
def _fingerprint() -> str:
    """The version, and what is installed: an editable package changes without a new version."""
    digest = hashlib.sha256(torch_accel.__version__.encode())
    folder = Path(__file__).parent
    for file in (Path(__file__), *sorted(folder.glob("*.so"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()
