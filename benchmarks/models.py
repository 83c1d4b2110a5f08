"""The models of the benchmarks beside the example's GPT. A training workload is a module with
loss(batch); they are written as people write them, without regard to any device."""

import torch
from torch import nn
from torch.nn import functional


class MLP(nn.Module):
    """Four hidden layers of 512 with layer norm, SiLU and dropout; ten classes."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(4):
            layers += [nn.Linear(512, 512), nn.LayerNorm(512), nn.SiLU(), nn.Dropout(0.1)]
        self.network = nn.Sequential(*layers, nn.Linear(512, 10))

    def loss(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return functional.cross_entropy(self.network(batch[0]), batch[1])


# ---- Llama ----


def rotary(length: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the angles by which pairs of a head's elements turn, each (length,
    width): RoFormer, equation 34."""
    frequencies = 10000.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.outer(torch.arange(length), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-right, left], dim=-1) * sines


class LlamaLayer(nn.Module):
    def __init__(self, width: int, heads: int, groups: int):
        super().__init__()
        self.heads, self.groups, self.head_width = heads, groups, width // heads
        hidden = 8 * width // 3 // 64 * 64
        self.norms = nn.ModuleList([nn.RMSNorm(width), nn.RMSNorm(width)])
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * groups * self.head_width, bias=False)
        self.projection = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def split(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        return x.unflatten(-1, (heads, self.head_width)).transpose(1, 2)

    def forward(self, x, cosines, sines, cache=None, position=None):
        y = self.norms[0](x)
        query = rotate(self.split(self.query(y), self.heads), cosines, sines)
        key, value = self.key_value(y).chunk(2, dim=-1)
        key = rotate(self.split(key, self.groups), cosines, sines)
        value = self.split(value, self.groups)
        mask = None
        if cache is not None:
            cache[0].index_copy_(2, position, key.to(cache[0].dtype))
            cache[1].index_copy_(2, position, value.to(cache[1].dtype))
            key, value = cache
            mask = torch.arange(key.shape[2], device=x.device)[None] <= position
        attended = functional.scaled_dot_product_attention(
            query, key, value, mask, is_causal=cache is None, enable_gqa=True
        )
        x = x + self.projection(attended.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)


class Llama(nn.Module):
    """Width 256, four layers, eight heads in two groups, RMSNorm, rotary positions, SwiGLU."""

    def __init__(self, vocabulary: int = 256, context: int = 128, layers: int = 4):
        super().__init__()
        width, heads, groups = 256, 8, 2
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(LlamaLayer(width, heads, groups) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        cosines, sines = rotary(context, width // heads)
        self.register_buffer("cosines", cosines)
        self.register_buffer("sines", sines)

    def loss(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens[:, :-1])
        for layer in self.layers:
            x = layer(x, self.cosines[: x.shape[1]], self.sines[: x.shape[1]])
        logits = self.head(self.norm(x))
        return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


class Generation(Llama):
    """Greedy decoding at batch 1: a step takes a token, adds to the cache of keys and values, and
    gives the next token. The cache has a fixed size, the dtype that attention computes in, and is
    written in place."""

    def __init__(self, context: int = 128, dtype: torch.dtype = torch.float32):
        super().__init__(context=context)
        layer = self.layers[0]
        shape = (1, layer.groups, context, layer.head_width)
        for number in range(2 * len(self.layers)):
            self.register_buffer(f"cache{number}", torch.zeros(shape, dtype=dtype))

    def next(self, token: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """token, position: (1, 1) and (1,), int64. Returns the next token, (1, 1)."""
        x = self.embedding(token)
        cosines, sines = self.cosines[position], self.sines[position]
        for number, layer in enumerate(self.layers):
            cache = [getattr(self, f"cache{2 * number + i}") for i in range(2)]
            x = layer(x, cosines, sines, cache, position)
        return self.head(self.norm(x)).argmax(-1)


# ---- a recurrent network, a cell at a time ----


class LSTM(nn.Module):
    """32 steps of a cell written out in pointwise ops: all overhead."""

    def __init__(self, vocabulary: int = 96, width: int = 64):
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(vocabulary, width)
        self.input = nn.Linear(width, 4 * width)
        self.hidden = nn.Linear(width, 4 * width, bias=False)
        self.head = nn.Linear(width, vocabulary)

    def loss(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.input(self.embedding(tokens[:, :-1]))
        hidden = cell = x.new_zeros(x.shape[0], self.width)
        outputs = []
        for step in range(x.shape[1]):
            gates = (x[:, step] + self.hidden(hidden)).chunk(4, dim=-1)
            forget, enter, leave = (torch.sigmoid(gate) for gate in gates[:3])
            cell = forget * cell + enter * torch.tanh(gates[3])
            hidden = leave * torch.tanh(cell)
            outputs.append(hidden)
        logits = self.head(torch.stack(outputs, dim=1))
        return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


# ---- convolutions ----


class Residual(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-18 of half the width, for images of 64x64."""

    def __init__(self, classes: int = 10):
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, 32, 7, 2, 3, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        ]
        width_in = 32
        for width in (32, 64, 128, 256):
            layers += [
                Residual(width_in, width, 1 if width == 32 else 2),
                Residual(width, width, 1),
            ]
            width_in = width
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width_in, classes)]
        self.network = nn.Sequential(*layers, *head)

    def loss(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return functional.cross_entropy(self.network(batch[0]), batch[1])


class UNetBlock(nn.Module):
    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width, 3, 1, 1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


class UNet(nn.Module):
    """A denoiser of three levels (32, 64, 128 channels) for images of 32x32."""

    def __init__(self):
        super().__init__()
        widths = (32, 64, 128)
        self.down = nn.ModuleList(
            UNetBlock(a, b) for a, b in zip((3, *widths[:-1]), widths, strict=True)
        )
        self.up = nn.ModuleList(
            UNetBlock(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.out = nn.Conv2d(widths[0], 3, 1)

    def loss(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x, noise = batch
        levels = []
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else functional.max_pool2d(x, 2))
            levels.append(x)
        for block, skipped in zip(self.up, levels[-2::-1], strict=True):
            larger = functional.interpolate(x, scale_factor=2)
            x = block(torch.cat([larger, skipped], dim=1))
        return functional.mse_loss(self.out(x), noise)
