"""torch.compile with PyTorch's default backend on accel: inductor's kernels as recorded Nodes."""

import copy
import os
import time
from collections.abc import Callable

import pytest
import torch
import torch._dynamo
import torch._inductor.config
from torch import nn
from torch._dynamo.utils import counters as compile_counters
from torch.nn import functional


@pytest.fixture(scope="module", autouse=True)
def _settings(tmp_path_factory):
    """Inductor's cache is this run's own, or the one that tools/test.sh has for all its runs. The
    instruction set is taken from the machine, without test programs; one process compiles."""
    with pytest.MonkeyPatch.context() as patch:
        if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
            patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        with torch._inductor.config.patch({"cpp.vec_isa_ok": True, "compile_threads": 1}):
            yield


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()
    compile_counters.clear()
    yield
    torch._dynamo.reset()


def _recorded(function: Callable, *arguments) -> object:
    """The function's result; asserts that kernels were recorded and that nobody waited for them."""
    torch.accel.synchronize()
    torch.accel.reset_counters()
    result = function(*arguments)
    assert sum(torch.accel.report()["compiled_kernel"].values()) > 0
    assert torch.accel.counters()["waits"] == 0
    return result


class _Block(nn.Module):
    """A transformer's block without attention, and a buffer that each call writes."""

    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 24), nn.Linear(24, 16)
        self.register_buffer("rows", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.rows += x.shape[0]
        return x + self.down(functional.gelu(self.up(self.norm(x))))


def test_training_takes_any_batch_and_waits_for_nothing():
    model = _Block().to("accel")
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, fullgraph=True, dynamic=True)

    def step(module, forward, x):
        module.zero_grad()
        loss = forward(x).square().mean()
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in module.parameters()), module.rows.clone()]

    for rows in (5, 8, 3):
        x = torch.randn(rows, 16, device="accel")
        expected = step(model, model, x)
        if rows == 5:
            step(twin, compiled, x)
            twin.rows -= 5
        # What the kernels read is pending when they are called, and is written again right after.
        given = torch.zeros_like(x).add_(x)
        got = _recorded(step, twin, compiled, given)
        given.fill_(float("nan"))
        for left, right in zip(got, expected, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
    assert compile_counters["stats"]["unique_graphs"] == 1


def test_arguments_of_every_kind():
    def mixed(x, view, number, scale, table, index):
        x.mul_(2)
        return (view + number) * scale, table[index] * torch.rand_like(x[:2])

    def arguments():
        whole = torch.arange(24.0, device="accel").view(6, 4)
        # A view with an offset, a number, a number in a tensor of the CPU, and an index.
        return (
            torch.ones(3, 4, device="accel"),
            whole[2:5, 1:3],
            3,
            torch.tensor(0.5),
            torch.eye(4, device="accel"),
            torch.tensor([3, 1], device="accel"),
        )

    compiled = torch.compile(mixed, fullgraph=True)
    x, *others = arguments()
    compiled(x, *others)
    torch.manual_seed(7)
    got, drawn = _recorded(compiled, x, *others)
    other = compiled(x, *others)[1]
    torch.manual_seed(7)
    again = compiled(x, *others)[1]
    assert torch.equal(x, torch.full_like(x, 16))
    torch.testing.assert_close(got, (others[0] + 3) * 0.5)
    assert torch.equal(drawn, again) and not torch.equal(drawn, other)
    assert torch.equal(drawn > 0, others[3][[3, 1]] > 0)

    others[4].fill_(9)
    compiled(x, *others)
    with pytest.raises(RuntimeError, match="index out of bounds"):
        torch.accel.synchronize()


def test_a_graph_on_disk_is_that_of_this_version(monkeypatch, tmp_path):
    from torch_accel import inductor

    def compiled_anew(x):
        torch._dynamo.reset()
        compile_counters.clear()
        assert torch.equal(torch.compile(lambda x: x * 2 + 1)(x), x * 2 + 1)
        return compile_counters["inductor"]["fxgraph_cache_hit"]

    x = torch.arange(5.0, device="accel")
    with torch._functorch.config.patch(enable_autograd_cache=False):
        compiled_anew(x)
        assert compiled_anew(x) == 1
        artifacts, _ = torch.compiler.save_cache_artifacts()
        # A name of its own: the cache may hold what an earlier run put there.
        monkeypatch.setattr(inductor, "_fingerprint", lambda: f"next to {tmp_path}{time.time_ns()}")
        assert compiled_anew(x) == 0
        monkeypatch.undo()
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        assert torch.compiler.load_cache_artifacts(artifacts) is not None
        assert compiled_anew(x) == 1


def test_what_inductor_cannot_do_here_names_the_other_backend(monkeypatch):
    from torch.nn.attention.flex_attention import flex_attention

    from torch_accel import _C

    x = torch.randn(1, 1, 128, 16, device="accel")
    other = 'use torch.compile\\(..., backend="accel"\\)'

    with pytest.raises(Exception, match=f"cpp_wrapper.*{other}"):
        torch.compile(lambda x: x + 1, options={"cpp_wrapper": True})(x)
    with pytest.raises(Exception, match=f"AOTInductor.*{other}"):
        program = torch.export.export(nn.Linear(16, 4).to("accel"), (x,))
        torch._inductor.aoti_compile_and_package(program)
    with pytest.raises(Exception, match=f"flex_attention.*{other}"):
        torch.compile(flex_attention)(x, x, x)
    monkeypatch.setattr(_C, "host_addressable", lambda: False)
    with pytest.raises(Exception, match=f"cannot address.*{other}"):
        torch.compile(lambda x: x + 3)(x)


def test_kernels_name_what_they_cannot_take():
    from torch_accel import _C

    kernel = _C.CompiledKernel("twice", 1, "rwi")
    x = torch.ones(3, device="accel")
    with pytest.raises(TypeError, match="twice takes 3 arguments, got 1"):
        kernel(x)
    with pytest.raises(TypeError, match="argument 1 must be a tensor"):
        kernel(x, 2, 3)
    with pytest.raises(RuntimeError, match="cannot write a tensor on the CPU"):
        kernel(x, torch.ones(3), 3)
    with pytest.raises(RuntimeError, match="none of the tensors is on accel"):
        _C.CompiledKernel("twice", 1, "r")(torch.ones(3))
    with pytest.raises(ValueError, match="unknown kind of parameter"):
        _C.CompiledKernel("twice", 1, "x")


def test_nothing_of_inductor_is_imported_before_it_is_used(run_python):
    assert (
        run_python(
            """
            import sys, torch
            torch.ones(2, device="accel").sum().item()
            print([name for name in sys.modules if name.startswith(("torch._inductor.codegen",
                                                                    "torch._dynamo"))])
            """
        ).strip()
        == "[]"
    )


@pytest.mark.slow
def test_a_step_with_attention_convolution_and_autocast():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.heads = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 48)
            self.drop, self.out = nn.Dropout(0.0), nn.Linear(16, 5)

        def forward(self, images):
            x = self.patches(images).flatten(2).transpose(1, 2)
            q, k, v = self.heads(x).unflatten(-1, (3, 2, 8)).movedim(-3, 0).transpose(-2, -3)
            x = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(self.drop(x.transpose(1, 2).flatten(2)).mean(1))

    model = Model().to("accel")
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin)

    def losses(module, forward):
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.01, fused=True)
        found = []
        for _ in range(4):
            images = torch.randn(6, 3, 16, 16, device="accel")
            labels = torch.randint(0, 5, (6,), device="accel")
            with torch.autocast("accel", torch.bfloat16):
                loss = functional.cross_entropy(forward(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        return torch.stack(found)

    torch.testing.assert_close(losses(twin, compiled), losses(model, model), rtol=2e-2, atol=2e-2)
