"""The package's surface: loading, the names of torch.cuda, devices, streams, memory, generators,
saving and copying."""

import copy
import io
import json
import pickle

import pytest
import torch
from memory import allocated

# ---- loading ----


def test_the_device_needs_no_import(run_python):
    out = run_python("import torch; print(torch.ones(3, device='accel').sum().item())")
    assert out.strip() == "3.0"


def test_importing_the_package_first_works(run_python):
    run_python("import torch_accel, torch; torch.ones(1, device='accel')")


def test_importing_the_package_twice_works(run_python):
    run_python("import torch_accel, torch, importlib; importlib.reload(torch_accel)")


def test_autoload_can_be_switched_off_and_the_package_imported(run_python):
    run_python(
        """
        import torch
        assert not hasattr(torch, "accel")
        import torch_accel
        assert torch.accel.is_available()
        """,
        TORCH_DEVICE_BACKEND_AUTOLOAD="0",
    )


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("sys.modules['torch_accel._C'] = None", "compiled part of torch_accel is missing"),
        (
            "import torch_accel._registration as r; r.TORCH_VERSION = '1.0'",
            "needs torch 1.0",
        ),
        (
            "import torch; torch.utils.rename_privateuse1_backend('rival')",
            "rival",
        ),
    ],
    ids=["broken extension", "other torch", "another backend"],
)
def test_a_failure_to_load_does_not_break_torch(run_python, failure, reason):
    # Autoloading is done by hand, as torch does it, after the failure has been prepared.
    out = run_python(
        f"""
        import os, sys, warnings
        os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
        import torch
        original = torch.__spec__._initializing
        torch.__spec__._initializing = True
        {failure}
        import torch_accel
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch._import_device_backends()
        torch.__spec__._initializing = original
        assert not hasattr(torch, "accel")
        print(*[str(w.message) for w in caught])
        print((torch.ones(2) + 1).tolist())
        """
    )
    assert "could not be loaded" in out
    assert reason in out
    assert "[2.0, 2.0]" in out


def test_importing_torch_does_not_import_dynamo(run_python):
    run_python("import torch, sys; assert 'torch._dynamo' not in sys.modules")


def test_dynamo_knows_the_device(run_python):
    run_python(
        """
        import torch
        from torch._dynamo.device_interface import get_interface_for_device
        interface = get_interface_for_device("accel:0")
        assert interface.device_count() == torch.accel.device_count()
        assert issubclass(interface.Stream, torch.Stream)
        """
    )


def test_doctor_finds_all_well(run_python):
    out = run_python(
        "import sys, torch_accel.__main__ as m; sys.argv[1:] = ['doctor']; sys.exit(m.main())"
    )
    for word in ("torch_accel", "instruction sets", "memory", "GFLOP/s", "GB/s", "all is well"):
        assert word in out


# ---- names ----

CUDA_NAMES = [
    "Event",
    "OutOfMemoryError",
    "Stream",
    "StreamContext",
    "_is_in_bad_fork",
    "_lazy_init",
    "_utils",
    "amp",
    "can_device_access_peer",
    "current_device",
    "current_stream",
    "default_generators",
    "default_stream",
    "device",
    "device_count",
    "device_of",
    "empty_cache",
    "get_device_capability",
    "get_device_name",
    "get_device_properties",
    "get_rng_state",
    "get_rng_state_all",
    "init",
    "initial_seed",
    "is_available",
    "is_bf16_supported",
    "is_initialized",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "max_memory_reserved",
    "mem_get_info",
    "memory",
    "memory_allocated",
    "memory_reserved",
    "memory_snapshot",
    "memory_stats",
    "memory_stats_as_nested_dict",
    "memory_summary",
    "random",
    "reset_accumulated_memory_stats",
    "reset_max_memory_allocated",
    "reset_peak_memory_stats",
    "seed",
    "seed_all",
    "set_device",
    "set_per_process_memory_fraction",
    "set_rng_state",
    "set_rng_state_all",
    "set_stream",
    "stream",
    "streams",
    "synchronize",
]


@pytest.mark.parametrize("name", CUDA_NAMES)
def test_mirrors_torch_cuda(name):
    assert hasattr(torch.cuda, name)
    assert hasattr(torch.accel, name)


def test_everything_public_is_documented():
    for name in torch.accel.__all__:
        assert getattr(torch.accel, name).__doc__, name


def test_submodules_can_be_imported():
    import torch.accel.memory
    from torch.accel.amp import GradScaler

    assert torch.accel.memory.memory_allocated is torch.accel.memory_allocated
    assert GradScaler().is_enabled()


def test_generated_methods():
    x = torch.ones(2).accel()
    assert x.is_accel
    assert torch.nn.Linear(2, 2).accel().weight.is_accel
    assert x.untyped_storage().is_accel


# ---- devices ----


def test_torch_accelerator_is_accel():
    assert torch.accelerator.current_accelerator() == torch.device("accel")
    assert torch.accelerator.is_available()
    assert torch.accelerator.device_count() == torch.accel.device_count()
    assert torch.float32 in torch.accelerator.get_device_capability()["supported_dtypes"]


def test_device_count_follows_the_environment(run_python):
    run_python(
        """
        import torch
        assert torch.accel.device_count() == 2
        with torch.accel.device(1):
            assert torch.accel.current_device() == 1
            x = torch.ones(2, device="accel")
        assert torch.accel.current_device() == 0
        assert x.device == torch.device("accel:1")
        assert x.to("accel:0").add(1).tolist() == [2, 2]
        assert len(torch.accel.default_generators) == 2
        with torch.accel.device_of(x):
            assert torch.accel.current_device() == 1
        """,
        ACCEL_DEVICE_COUNT="2",
    )


@pytest.mark.parametrize("index", [1, 7, 100])
def test_a_device_index_out_of_range_is_an_error(index):
    count = torch.accel.device_count()
    index = max(index, count)
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(1, device=f"accel:{index}")
    with pytest.raises(RuntimeError, match="device"):
        torch.accel.set_device(index)
    assert torch.accel.current_device() == 0
    assert torch.ones(1, device="accel").item() == 1


def test_a_cpu_device_is_refused():
    with pytest.raises(ValueError, match="accel"):
        torch.accel.synchronize("cpu")


def test_properties():
    properties = torch.accel.get_device_properties()
    assert properties.name == torch.accel.get_device_name("accel:0")
    isas = ["portable", "avx2", "avx512", "avx512_bf16", "amx"]
    assert properties.isa in properties.supported_isas
    assert properties.supported_isas == isas[: len(properties.supported_isas)]
    assert properties.total_memory > 0
    assert properties.multi_processor_count >= 1
    assert properties.isa in repr(properties)


@pytest.mark.parametrize("isa", ["portable", "avx2"])
def test_a_lower_instruction_set_can_be_forced(run_python, isa):
    if isa not in torch.accel.get_device_properties().supported_isas:
        pytest.skip(f"this machine has no {isa}")
    out = run_python(
        """
        import torch
        print(torch.accel.get_device_properties().isa)
        x = torch.linspace(-3, 3, 1001)
        y = torch.nn.functional.gelu(x.to("accel") * 2).softmax(0).cpu()
        torch.testing.assert_close(y, torch.nn.functional.gelu(x * 2).softmax(0))
        """,
        ACCEL_ISA=isa,
    )
    assert out.strip() == isa


# ---- streams and events ----


def test_streams_are_torch_streams():
    stream = torch.accel.Stream()
    assert isinstance(stream, torch.Stream)
    assert isinstance(torch.accel.Event(), torch.accel.Event)
    assert not isinstance(torch.Event("cpu"), torch.accel.Event)
    assert stream.device == torch.device("accel:0")
    with torch.accel.stream(stream) as context:
        assert context.stream is stream
        assert torch.accel.current_stream() == stream
        assert torch.accelerator.current_stream() == stream
    assert torch.accel.current_stream() == torch.accel.default_stream()
    with stream:
        assert torch.accel.current_stream() == stream
    with torch.accel.stream(None):
        assert torch.accel.current_stream() == torch.accel.default_stream()


def test_streams_wait_for_each_other():
    stream = torch.accel.Stream(priority=-1)
    x = torch.full((1000,), 2.0, device="accel")
    stream.wait_stream(torch.accel.current_stream())
    with torch.accel.stream(stream):
        y = x * 3
    x.record_stream(stream)
    torch.accel.current_stream().wait_stream(stream)
    assert (y + 1).sum().item() == 7000
    stream.synchronize()
    assert stream.query()


def test_events_measure_time():
    start, end = (torch.accel.Event(enable_timing=True) for _ in range(2))
    x = torch.randn(400, 400, device="accel")
    start.record()
    for _ in range(10):
        x = (x @ x).tanh()
    end.record()
    end.synchronize()
    assert start.query() and end.query()
    assert 0 < start.elapsed_time(end) < 60_000


def test_an_event_orders_two_streams():
    event = torch.accel.Event()
    stream = torch.accel.Stream()
    x = torch.zeros(1 << 20, device="accel")
    for step in range(5):
        x.add_(1)
        event.record()
        stream.wait_event(event)
        with torch.accel.stream(stream):
            y = x.sum()
        torch.accel.current_stream().wait_stream(stream)
        assert y.item() == (step + 1) * (1 << 20)


# ---- memory ----


def test_memory_is_counted():
    before = allocated()
    torch.accel.reset_peak_memory_stats()
    x = torch.empty(1 << 22, device="accel")
    assert torch.accel.memory_allocated() - before >= x.nbytes
    assert torch.accel.max_memory_allocated() >= torch.accel.memory_allocated()
    assert torch.accel.memory_reserved() >= torch.accel.memory_allocated()
    del x
    assert allocated(at_most=before) == before
    assert torch.accelerator.memory_allocated() == before


def test_empty_cache_returns_memory():
    x = torch.empty(1 << 26, device="accel")
    del x
    torch.accel.synchronize()
    reserved = torch.accel.memory_reserved()
    torch.accel.empty_cache()
    assert torch.accel.memory_reserved() <= reserved - (1 << 26)


def test_memory_texts():
    x = torch.ones(1000, device="accel")
    free, total = torch.accel.mem_get_info()
    assert 0 < free < total
    summary = torch.accel.memory_summary()
    assert "MiB" in summary and "allocated memory" in summary
    assert len(torch.accel.memory_summary(abbreviated=True)) < len(summary)
    assert any(
        block["address"] == x.data_ptr() and block["state"] == "active_allocated"
        for arena in torch.accel.memory_snapshot()
        for block in arena["blocks"]
    )


def test_the_memory_fraction_bounds_what_is_taken(run_python):
    run_python(
        """
        import torch
        torch.accel.set_per_process_memory_fraction(0.5)
        kept = torch.ones(1 << 22, device="accel")
        try:
            torch.empty(1 << 28, dtype=torch.uint8, device="accel")
        except torch.OutOfMemoryError as error:
            assert "GiB" in str(error) or "MiB" in str(error), error
        else:
            raise AssertionError("256 MiB fitted into 50 % of 256 MiB")
        assert kept.sum().item() == 1 << 22
        """,
        ACCEL_MEMORY_CAPACITY="256M",
    )
    with pytest.raises(ValueError, match="fraction"):
        torch.accel.set_per_process_memory_fraction(2)


def test_pinned_memory():
    x = torch.arange(1000.0).pin_memory()
    assert x.is_pinned()
    assert not torch.arange(3).is_pinned()
    y = x.to("accel", non_blocking=True) + 1
    out = torch.empty(1000, pin_memory=True)
    out.copy_(y, non_blocking=True)
    torch.accel.synchronize()
    assert torch.equal(out, x + 1)


# ---- generators ----


def test_seeds_repeat_and_states_can_be_kept():
    torch.manual_seed(7)
    first = torch.rand(1000, device="accel")
    state = torch.accel.get_rng_state()
    second = torch.rand(1000, device="accel")
    torch.manual_seed(7)
    assert torch.equal(first, torch.rand(1000, device="accel"))
    assert not torch.equal(first, second)
    torch.accel.set_rng_state(state)
    assert torch.equal(second, torch.rand(1000, device="accel"))
    assert torch.accel.initial_seed() == 7
    assert state.device.type == "cpu" and state.dtype == torch.uint8
    torch.accel.seed()
    assert torch.accel.initial_seed() != 7


def test_fork_rng_keeps_the_device_state():
    torch.manual_seed(1)
    with torch.random.fork_rng():
        expected = torch.rand(4, device="accel")
    assert torch.equal(expected, torch.rand(4, device="accel"))


def test_own_generators():
    generator = torch.Generator("accel").manual_seed(3)
    first = torch.rand(10, device="accel", generator=generator)
    generator.manual_seed(3)
    assert torch.equal(first, torch.rand(10, device="accel", generator=generator))


# ---- saving, copying, exchanging ----


@pytest.mark.parametrize("method", ["save", "pickle", "deepcopy"])
def test_tensors_and_modules_survive(method):
    module = torch.nn.Linear(5, 3).to("accel")
    if method == "save":
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
    elif method == "pickle":
        state = pickle.loads(pickle.dumps(module)).state_dict()
    else:
        state = copy.deepcopy(module).state_dict()
    for name, tensor in module.state_dict().items():
        assert state[name].device == tensor.device
        assert torch.equal(state[name], tensor)
        assert state[name].data_ptr() != tensor.data_ptr()


def test_load_onto_the_cpu():
    file = io.BytesIO()
    torch.save(torch.arange(5, device="accel"), file)
    file.seek(0)
    assert torch.load(file, map_location="cpu").tolist() == [0, 1, 2, 3, 4]


def test_dlpack_shares_memory():
    x = torch.arange(6.0, device="accel").view(2, 3)
    assert x.__dlpack_device__() == (torch.utils.dlpack.DLDeviceType.kDLExtDev, 0)
    y = torch.from_dlpack(x)
    assert y.device == x.device and y.data_ptr() == x.data_ptr()
    y.add_(1)
    assert x.sum().item() == 21


def test_printing():
    x = torch.arange(3.0, device="accel")
    assert "device='accel:0'" in repr(x)
    assert "1." in repr(x)


def test_autocast():
    x = torch.ones(4, 4, device="accel")
    with torch.autocast("accel", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        assert (x @ x).softmax(-1).dtype == torch.float32
    with torch.accel.amp.autocast():
        assert (x @ x).dtype == torch.float16


def test_grad_scaler_skips_a_step_with_infinities():
    weight = torch.nn.Parameter(torch.ones(3, device="accel"))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("accel", init_scale=4.0)
    scaler.scale((weight * float("inf")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert weight.tolist() == [1, 1, 1]
    assert scaler.get_scale() == 2.0


# ---- report ----


def test_counters_and_report(counted):
    with counted() as change:
        x = torch.ones(2048, 2048, device="accel")
        (x @ x).sum().item()  # far from ready when it is asked for
    assert change["nodes"] >= 2
    assert change["segments"] >= 1
    assert change["waits"] == 1
    text = str(torch.accel.report())
    assert "waits" in text and "nodes" in text
    torch.accel.reset_counters()
    assert torch.accel.counters()["nodes"] == 0


# ---- profiling ----


def test_a_profile_has_the_kernels_of_the_device_and_the_ops_behind_them(tmp_path):
    def step():
        return (x @ x + x).relu().sum().item()

    x = torch.randn(256, 256).to("accel")
    step()
    with torch.profiler.profile() as profile:
        step()
    kernels, ops = {}, {}
    for event in profile.key_averages():
        on_device = event.device_type == torch.autograd.DeviceType.PrivateUse1
        (kernels if on_device else ops)[event.key] = event.self_device_time_total
    assert any(name.startswith("Matmul") for name in kernels) and min(kernels.values()) > 0
    assert ops["aten::mm"] > 0 and ops["aten::item"] == 0
    assert sum(ops.values()) == pytest.approx(sum(kernels.values()))  # microseconds
    path = tmp_path / "trace.json"
    profile.export_chrome_trace(str(path))
    events = json.loads(path.read_text())["traceEvents"]
    assert {event["name"] for event in events if event.get("cat") == "kernel"} == set(kernels)
    # And the next one does not begin with what this one saw.
    with torch.profiler.profile() as profile:
        x.exp_()
        torch.accel.synchronize()
    names = {event.name for event in profile.events()}
    assert "Exp" in names and not names & set(kernels)


def test_a_profile_of_a_compiled_graph(tmp_path):
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: torch.softmax(x @ x, 0), backend="accel")
    x = torch.randn(64, 64).to("accel")
    compiled(x)
    with torch.profiler.profile() as profile:
        compiled(x).sum().item()
    assert any(event.name.startswith("Matmul") for event in profile.events())


def test_the_profiler_without_kineto_tells_the_time_of_each_op(capfd):
    x = torch.randn(256, 256).to("accel")
    with torch.autograd.profiler.profile(use_device="accel", use_kineto=False) as profile:
        (x @ x).relu().sum().item()
        torch.compile(lambda x: x * 2 + 1, backend="accel")(x)
    times = {event.key: event.self_device_time_total for event in profile.key_averages()}
    assert times["aten::mm"] > 0 and sum(times.values()) < 60e6  # microseconds
    assert "Exception" not in capfd.readouterr().err
