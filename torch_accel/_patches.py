"""What torch 2.13 gets wrong for every renamed PrivateUse1 device and no registration can mend.
Each patch says what is wrong and when it can go."""

import functools

import torch

from torch_accel._imports import when_imported


def apply() -> None:
    _patch_dlpack()
    when_imported("torch.nn.attention.flex_attention", _patch_flex_attention)
    when_imported("torch.utils.flop_counter", _register_flops_of_attention)


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
