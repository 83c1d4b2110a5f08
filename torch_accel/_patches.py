"""What torch 2.13 gets wrong for every renamed PrivateUse1 device and no registration can mend.
Each patch says what is wrong and when it can go."""

import datetime
import functools
import inspect

import torch

from torch_accel._imports import when_imported


def apply() -> None:
    _patch_dlpack()
    _patch_convolution_format()
    when_imported("torch.nn.attention.flex_attention", _patch_flex_attention)
    when_imported("torch.utils.flop_counter", _register_flops_of_attention)
    when_imported("torch.nn.parallel.distributed", _patch_distributed_data_parallel)
    when_imported("torch.distributed.distributed_c10d", _patch_process_groups)
    when_imported("torch.distributed", _patch_monitored_barrier)


def _patch_convolution_format() -> None:
    # Graphs are traced as if every convolution that a device overrides were contiguous; channels
    # are innermost where the input or the weight has them so, as on other devices. Can go when
    # determine_backend_memory_format asks the device.
    original = torch._C._conv_determine_backend_memory_format

    @functools.wraps(original)
    def memory_format(input, weight, backend):
        if input.device.type != "accel":
            return original(input, weight, backend)
        from torch._prims_common import suggest_memory_format

        formats = (suggest_memory_format(tensor) for tensor in (input, weight))
        others = (format for format in formats if format != torch.contiguous_format)
        return next(others, torch.contiguous_format)

    torch._C._conv_determine_backend_memory_format = memory_format


def _patch_flex_attention(module) -> None:
    # flex_attention refuses devices that are not in a list of names in _validate_device. Can go
    # when that asks the device.
    original = module._validate_device

    def validate(query, key, value) -> None:
        if query.device.type != "accel":
            original(query, key, value)

    module._validate_device = validate


def _register_flops_of_attention(module) -> None:
    # FlopCounterMode knows the attention ops of other devices by name. Can go when it knows the one
    # that devices override.
    forward = torch.ops.aten._scaled_dot_product_fused_attention_overrideable
    backward = torch.ops.aten._scaled_dot_product_fused_attention_overrideable_backward

    @module.register_flop_formula(forward)
    def _(query, key, value, *_, out_shape=None, **__) -> int:
        return module.sdpa_flop_count(query, key, value)

    @module.register_flop_formula(backward)
    def _(grad, query, key, value, *_, out_shape=None, **__) -> int:
        return module.sdpa_backward_flop_count(grad, query, key, value)


def _patch_distributed_data_parallel(module) -> None:
    # DDP refuses the hooks that send gradients in bfloat16 unless torch was built for CUDA or XPU:
    # _check_comm_hook goes by the hook's name. Can go when it asks the backend.
    original = module.DistributedDataParallel._check_comm_hook

    @functools.wraps(original)
    def check(self, hook) -> None:
        if self.device_type == "accel" and callable(hook):

            def unnamed(*args):
                return hook(*args)

            unnamed.__signature__ = inspect.signature(hook)
            original(self, unnamed)
        else:
            original(self, hook)

    # And its logger calls the backend of every plugin "custom". Can go when it asks for its name.
    original_data = module.DistributedDataParallel._get_ddp_logging_data

    @functools.wraps(original_data)
    def logging_data(self) -> dict:
        data = original_data(self)
        if self.device_type == "accel" and data.get("backend_name") == "custom":
            data["backend_name"] = module.dist.get_backend(self.process_group)
        return data

    module.DistributedDataParallel._check_comm_hook = check
    module.DistributedDataParallel._get_ddp_logging_data = logging_data


def _patch_process_groups(module) -> None:
    # A group has a default backend, which DDP's logger asks for its name. For one of several
    # backends _new_process_group_helper compares names of plugins in capitals with lower-case ones
    # and sets none; without a backend it finds the accelerator's, then sets NCCL or Gloo, which the
    # group does not have. Can go when it takes the type of the backend that it made.
    original = module._new_process_group_helper

    @functools.wraps(original)
    def helper(*args, **kwargs):
        group, store = original(*args, **kwargs)
        if isinstance(group, module.ProcessGroup):
            backends = [group._get_backend(device).name() for device in group._device_types]
            if "accl" in backends:
                group._set_default_backend(module.ProcessGroup.BackendType.CUSTOM)
        return group, store

    module._new_process_group_helper = helper


def _patch_monitored_barrier(module) -> None:
    # monitored_barrier() asks for Gloo by name, and the method of a group goes to its backend for
    # the CPU, which a group of accl alone does not have. Both can go when they ask whether the
    # group's backend supports it.
    if not module.is_available():
        return
    c10d = module.distributed_c10d
    original, original_method = c10d.monitored_barrier, c10d.ProcessGroup.monitored_barrier

    def accl_of(group):
        device = torch.device("accel")
        backend = group._get_backend(device) if device in group._device_types else None
        return backend if backend is not None and backend.name() == "accl" else None

    @functools.wraps(original)
    def monitored_barrier(group=None, timeout=None, wait_all_ranks=False):
        if not c10d._rank_not_in_group(group):
            members = group or c10d._get_default_group()
            if accl_of(members) is not None:
                return members.monitored_barrier(timeout, wait_all_ranks)
        return original(group, timeout, wait_all_ranks)

    @functools.wraps(original_method)
    def method(self, timeout=None, wait_all_ranks=False):
        backend = accl_of(self)
        if backend is None:
            return original_method(self, timeout, wait_all_ranks)
        if isinstance(timeout, float):
            timeout = datetime.timedelta(seconds=timeout)
        given = {} if timeout is None else {"timeout": timeout}
        return backend.monitored_barrier(**given, wait_all_ranks=wait_all_ranks)

    module.monitored_barrier = c10d.monitored_barrier = monitored_barrier
    c10d.ProcessGroup.monitored_barrier = method


def _patch_dlpack() -> None:
    # Tensor.__dlpack_device__ compares the device type with the literal "privateuse1", so it raises
    # for a renamed device (pytorch#195815). And Tensor.__dlpack__ makes the consumer's stream wait
    # on CUDA only; here the producer's stream is synchronised. Both can go when torch asks the
    # device module.
    original_device = torch.Tensor.__dlpack_device__
    original_export = torch.Tensor.__dlpack__

    @functools.wraps(original_device)
    def dlpack_device(self):
        if self.device.type == "accel":
            from torch.utils.dlpack import DLDeviceType

            return (DLDeviceType.kDLExtDev, self.device.index)
        return original_device(self)

    @functools.wraps(original_export)
    def dlpack(self, *args, **kwargs):
        if self.device.type == "accel":
            torch.accel.current_stream(self.device).synchronize()
        return original_export(self, *args, **kwargs)

    torch.Tensor.__dlpack_device__ = dlpack_device
    torch.Tensor.__dlpack__ = dlpack
