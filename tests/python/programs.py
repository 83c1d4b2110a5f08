"""Random programs of tensor operations, for the tests that compare one setting with another.

A program is plain data (lists, strings, numbers), so that hypothesis can shrink it and a process
under another setting can run it: `python programs.py` reads one program a line from stdin and
answers with one line of digests. Tests import `strategy` and `Runner`.
"""

import hashlib
import json
import os
import subprocess
import sys

import torch
from torch.nn import functional

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
    "int64": torch.int64,
    "bool": torch.bool,
}

UNARY = {
    "neg": lambda x: -x,
    "exp": lambda x: x.clamp(-20, 20).exp(),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "abs": torch.abs,
    "rsqrt": lambda x: (x.abs() + 1).rsqrt(),
    "square": lambda x: x * x,
    "half": lambda x: x * 0.5,
    "add_one": lambda x: x + 1,
    "pow": lambda x: x.clamp(-4, 4) ** 3,
    "is_positive": lambda x: x > 0,
    "softmax": lambda x: functional.softmax(x, -1),
    "log_softmax": lambda x: functional.log_softmax(x, -1),
    "layer_norm": lambda x: functional.layer_norm(x, x.shape[-1:]),
    "batch_norm": lambda x: functional.batch_norm(
        x if x.dim() > 1 and x.size(0) > 1 else x.new_ones(2, 3), None, None, training=True
    ),
    "group_norm": lambda x: functional.group_norm(x, 1),
    "sum": lambda x: x.sum(),
    "sum_rows": lambda x: x.sum(-1, keepdim=True),
    "sum_columns": lambda x: x.sum(0),
    "mean_rows": lambda x: x.mean(-1, keepdim=True),
    "max_rows": lambda x: x.amax(-1, keepdim=True),
    "argmax": lambda x: x.argmax(-1),
    "variance": lambda x: x.var(-1, keepdim=True),
    "cumsum": lambda x: x.cumsum(-1),
    "clone": torch.clone,
    "contiguous": lambda x: x.contiguous(),
    "dropout": lambda x: functional.dropout(x, 0.3),
    "rand_like": torch.rand_like,
    "zeros_like": torch.zeros_like,
    "full_like": lambda x: torch.full_like(x, 3),
    "flip": lambda x: x.flip(-1),
}

BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": lambda x, y: x / (y.abs() + 1),
    "maximum": torch.maximum,
    "add_scaled": lambda x, y: torch.add(x, y, alpha=2),
    "where": lambda x, y: torch.where(x > 0, x, y),
    "matmul": lambda x, y: x @ y,
    "matmul_transposed": lambda x, y: x @ y.t(),
    "linear_gelu": lambda x, y: functional.gelu(functional.linear(x, y)),
    "lerp": lambda x, y: torch.lerp(x, y, 0.25),
    "cat": lambda x, y: torch.cat([x, y]),
}

IN_PLACE = {
    "add_": lambda x, y: x.add_(y),
    "mul_": lambda x, y: x.mul_(y),
    "copy_": lambda x, y: x.copy_(y),
    "relu_": lambda x, y: x.relu_(),
    "zero_": lambda x, y: x.zero_(),
    "fill_": lambda x, y: x.fill_(1.5),
    "addcmul_": lambda x, y: x.addcmul_(y, y, value=0.5),
    "masked_fill_": lambda x, y: x.masked_fill_(y > 0, 0.25),
}

VIEWS = {
    "transpose": lambda x: x.transpose(0, -1),
    "tail": lambda x: x[1:],
    "odd_columns": lambda x: x[..., 1::2],
    "last": lambda x: x[-1],
    "unsqueeze": lambda x: x.unsqueeze(0),
    "expand": lambda x: x.unsqueeze(0).expand(2, *x.shape),
    "flatten": lambda x: x.reshape(-1),
    "diagonal": lambda x: x.diagonal(),
}


def _gradient(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The gradient of a small network in x; leaves and hooks included."""
    leaf = x.detach().float().requires_grad_()
    hidden = functional.gelu(functional.layer_norm(leaf, leaf.shape[-1:])) * 2
    (hidden * hidden.detach().sigmoid() + y.detach().float()).square().mean().backward()
    return leaf.grad


def execute(program: dict, device: str) -> list[str]:
    """Runs the program; one digest for every tensor that is left, and the type of each error."""
    torch.manual_seed(program["seed"])
    pool = [
        torch.randn(shape).mul_(4).to(DTYPES[dtype]).to(device)
        for shape, dtype in program["inputs"]
    ]
    results = []
    for kind, name, first, second in program["operations"]:
        x, y = pool[first % len(pool)], pool[second % len(pool)]
        try:
            if kind == "unary":
                pool.append(UNARY[name](x))
            elif kind == "binary":
                pool.append(BINARY[name](x, y))
            elif kind == "in_place":
                IN_PLACE[name](x, y)
            elif kind == "view":
                pool.append(VIEWS[name](x))
            elif kind == "cast":
                pool.append(x.to(DTYPES[name]))
            elif kind == "gradient":
                pool.append(_gradient(x, y))
            elif kind == "drop":
                if len(pool) > 1:
                    del pool[first % len(pool)]
            elif kind == "read":
                results.append(_digest(x.sum()))
        except (RuntimeError, IndexError, TypeError) as error:
            results.append(type(error).__name__)
        if pool[-1].numel() > 1 << 16:
            pool.pop()
    return results + [_digest(x) for x in pool]


def _digest(x: torch.Tensor) -> str:
    """Shape, dtype and bits; all NaNs count as the same."""
    # Not contiguous(): it leaves one element the stride that it has, and view() minds.
    x = torch.empty(x.shape, dtype=x.dtype).copy_(x.detach())
    if x.is_floating_point():
        x = torch.where(x.isnan(), torch.full_like(x, float("nan")), x)
    bits = bytes(x.reshape(-1).view(torch.uint8).tolist()) if x.numel() else b""
    return f"{tuple(x.shape)} {x.dtype} {hashlib.sha1(bits).hexdigest()[:12]}"


def strategy(maximum: int = 40):
    """Programs of up to `maximum` operations."""
    from hypothesis import strategies as st

    numbers = st.integers(0, 30)
    operation = st.one_of(
        st.tuples(st.just("unary"), st.sampled_from(sorted(UNARY)), numbers, numbers),
        st.tuples(st.just("binary"), st.sampled_from(sorted(BINARY)), numbers, numbers),
        st.tuples(st.just("in_place"), st.sampled_from(sorted(IN_PLACE)), numbers, numbers),
        st.tuples(st.just("view"), st.sampled_from(sorted(VIEWS)), numbers, numbers),
        st.tuples(st.just("cast"), st.sampled_from(sorted(DTYPES)), numbers, numbers),
        st.tuples(st.sampled_from(["gradient", "drop", "read"]), st.just(""), numbers, numbers),
    )
    # Sizes around the tile of 256 elements, odd ones, square ones so that products match, and long
    # ones: several chunks of a sum, and the largest tile.
    squares = [[7, 7], [33, 33], [128, 128]]
    others = [[1], [33], [1, 33], [33, 1], [300, 33], [33, 300], [2, 700]]
    long_ones = [[40_000], [3, 9000], [70, 500]]
    shape = st.sampled_from(squares + others + long_ones)
    inputs = st.lists(
        st.tuples(shape, st.sampled_from(["float32", "float32", "bfloat16", "float16", "int64"])),
        min_size=1,
        max_size=4,
    )
    return st.fixed_dictionaries(
        {
            "seed": st.integers(0, 1000),
            "inputs": inputs,
            "operations": st.lists(operation, min_size=1, max_size=maximum),
        }
    )


class Runner:
    """A process that executes programs on accel under other environment variables."""

    def __init__(self, **variables: str):
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )

    def execute(self, program: dict) -> list[str]:
        print(json.dumps(program), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, f"the process died with status {self._process.wait()}"
        return json.loads(answer)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(execute(json.loads(line), "accel")), flush=True)
