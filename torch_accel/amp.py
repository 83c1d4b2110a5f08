"""torch.accel.amp: torch.amp with the device filled in, as torch.cuda.amp."""

from typing import Any

import torch


class autocast(torch.amp.autocast):  # noqa: N801 - the name of torch.cuda.amp.autocast
    """torch.autocast("accel"). As on CUDA the dtype is float16 unless another is given."""

    def __init__(
        self,
        enabled: bool = True,
        dtype: torch.dtype = torch.float16,
        cache_enabled: bool = True,
    ):
        super().__init__("accel", enabled=enabled, dtype=dtype, cache_enabled=cache_enabled)


class GradScaler(torch.amp.GradScaler):
    """torch.amp.GradScaler("accel"); needed with float16, not with bfloat16."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__("accel", *args, **kwargs)
