"""Every collective, over random sizes, dtypes, strides, groups and streams, against what it should
give: equal in every bit, also in sums of floating numbers, which follow the order of the ranks.
The programs are random, but the same on all ranks."""

import os
import random
from datetime import timedelta

import pytest
import torch
from ranks import Ranks
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

MOVED = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
]
INTEGRAL = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
FLOATING = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SIZES = [0, 1, 2, 3, 17, 63, 64, 1000, 4096, 5000, 70_001, 300_000]


def make(generator, shape, dtype):
    """Numbers that the dtype can hold, a few of each sign."""
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    if dtype.is_floating_point or dtype.is_complex:
        if dtype.itemsize == 1:
            return torch.randn(shape, generator=generator).to(dtype)
        real = torch.randn(shape, generator=generator, dtype=torch.float64)
        return real.to(dtype) if not dtype.is_complex else torch.complex(real, -real).to(dtype)
    low = 0 if not dtype.is_signed else -50
    return torch.randint(low, 51, shape, generator=generator).to(dtype)


def on_device(device, tensor, layout):
    """The tensor on the device in one of a few layouts."""
    if tensor.dim() == 0 or layout == "dense":
        return tensor.to(device)
    if layout == "strided":
        room = torch.empty(*tensor.shape[:-1], 2 * tensor.shape[-1], dtype=tensor.dtype)
        return room.to(device)[..., ::2].copy_(tensor)
    if layout == "transposed" and tensor.dim() == 2:
        return tensor.t().contiguous().to(device).t()
    flat = torch.empty(tensor.numel() + 3, dtype=tensor.dtype).to(device)
    return flat[3:].view(tensor.shape).copy_(tensor)


def shape_of(choose, size):
    return (size,) if size == 0 or size % 2 or choose.random() < 0.5 else (2, size // 2)


class Case:
    """One rank's part of a random program: a tensor of each rank is known to all."""

    def __init__(self, place, seed):
        self.choose = random.Random(seed)
        self.place = place
        self.seed = seed
        self.rank, self.size = place.rank, place.ranks

    def tensors(self, count, shape, dtype):
        """The same `count` tensors on every rank."""
        generator = torch.Generator().manual_seed(self.choose.randrange(2**31))
        return [make(generator, shape, dtype) for _ in range(count)]

    def layout(self):
        return self.choose.choice(["dense", "dense", "strided", "transposed", "view"])

    def on_device(self, tensor):
        return on_device(self.place.device, tensor, self.layout())

    def empty(self, like):
        return self.on_device(torch.zeros_like(like) if like.numel() else like)

    def finish(self, work):
        if work is not None:
            work.wait()


def same_bits(actual, expected):
    actual = actual.cpu()
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    raw = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.float64}
    view = raw[actual.dtype.itemsize]
    assert torch.equal(
        torch.view_as_real(actual) if actual.is_complex() else actual.contiguous().view(view),
        torch.view_as_real(expected) if expected.is_complex() else expected.contiguous().view(view),
    )


def combined(tensors, op):
    """What ranks in their order add up to: 16 bits in fp32, rounded once."""
    dtype = tensors[0].dtype
    wide = [t.float() if dtype in (torch.float16, torch.bfloat16) else t for t in tensors]
    if dtype == torch.bool:
        wide = [t.to(torch.uint8) for t in wide]
    total = wide[0]
    for tensor in wide[1:]:
        if op in (dist.ReduceOp.SUM, dist.ReduceOp.AVG):
            total = total + tensor if dtype != torch.bool else total | tensor
        elif op == dist.ReduceOp.PRODUCT:
            total = total * tensor
        elif op == dist.ReduceOp.MIN:
            total = torch.minimum(total, tensor)
        elif op == dist.ReduceOp.MAX:
            total = torch.maximum(total, tensor)
        elif op == dist.ReduceOp.BAND:
            total = total & tensor
        elif op == dist.ReduceOp.BOR:
            total = total | tensor
        else:
            total = total ^ tensor
    if op == dist.ReduceOp.AVG:
        rounding = {} if dtype.is_floating_point else {"rounding_mode": "trunc"}
        total = torch.div(total, len(tensors), **rounding)
    return total.to(dtype)


def random_op(choose, dtype):
    ops = [dist.ReduceOp.SUM, dist.ReduceOp.PRODUCT, dist.ReduceOp.MIN, dist.ReduceOp.MAX]
    if dtype in INTEGRAL or dtype == torch.bool:
        ops += [dist.ReduceOp.BAND, dist.ReduceOp.BOR, dist.ReduceOp.BXOR]
    if dtype != torch.bool:
        ops += [dist.ReduceOp.AVG]
    return choose.choice(ops)


# ---- what one case does; each returns nothing and asserts on its rank ----


def all_reduce(case, group=None):
    dtype = case.choose.choice([*INTEGRAL, *FLOATING, torch.bool])
    op = random_op(case.choose, dtype)
    shape = shape_of(case.choose, case.choose.choice(SIZES))
    tensors = case.tensors(case.size, shape, dtype)
    mine = case.on_device(tensors[case.rank])
    case.finish(dist.all_reduce(mine, op, group, async_op=case.choose.random() < 0.5))
    same_bits(mine, combined(tensors, op))


def reduce(case, group=None):
    dtype = case.choose.choice([*INTEGRAL, *FLOATING, torch.bool])
    op = random_op(case.choose, dtype)
    root = case.choose.randrange(case.size)
    shape = shape_of(case.choose, case.choose.choice(SIZES))
    tensors = case.tensors(case.size, shape, dtype)
    mine = case.on_device(tensors[case.rank])
    dist.reduce(mine, group_dst=root, op=op, group=group)
    same_bits(mine, combined(tensors, op) if case.rank == root else tensors[case.rank])


def any_dtype(case):
    return case.choose.choice([*MOVED, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16])


def broadcast(case, group=None):
    root = case.choose.randrange(case.size)
    shape = shape_of(case.choose, case.choose.choice(SIZES))
    tensors = case.tensors(case.size, shape, any_dtype(case))
    mine = case.on_device(tensors[case.rank])
    dist.broadcast(mine, group_src=root, group=group)
    same_bits(mine, tensors[root])


def all_gather(case, group=None):
    dtype = any_dtype(case)
    sizes = [case.choose.choice(SIZES)] * case.size
    if case.choose.random() < 0.3:
        sizes = [case.choose.choice(SIZES) for _ in range(case.size)]
    tensors = [case.tensors(1, (size,), dtype)[0] for size in sizes]
    outputs = [case.empty(tensor) for tensor in tensors]
    dist.all_gather(outputs, case.on_device(tensors[case.rank]), group)
    for output, tensor in zip(outputs, tensors):
        same_bits(output, tensor)


def all_gather_into_tensor(case, group=None):
    shape = shape_of(case.choose, case.choose.choice(SIZES))
    tensors = case.tensors(case.size, shape, case.choose.choice(MOVED))
    expected = torch.cat(tensors)
    output = case.empty(expected)
    mine = case.on_device(tensors[case.rank])
    if output.is_contiguous() and case.choose.random() < 0.3:  # in place, as FSDP does
        mine = output.view(case.size, -1)[case.rank].view(shape).copy_(tensors[case.rank])
    dist.all_gather_into_tensor(output, mine, group)
    same_bits(output, expected)


def gather(case, group=None):
    root = case.choose.randrange(case.size)
    shape = shape_of(case.choose, case.choose.choice(SIZES))
    tensors = case.tensors(case.size, shape, any_dtype(case))
    outputs = [case.empty(t) for t in tensors] if case.rank == root else None
    dist.gather(case.on_device(tensors[case.rank]), outputs, group_dst=root, group=group)
    for output, tensor in zip(outputs or [], tensors):
        same_bits(output, tensor)


def scatter(case, group=None):
    root = case.choose.randrange(case.size)
    shape = shape_of(case.choose, case.choose.choice(SIZES))
    tensors = case.tensors(case.size, shape, any_dtype(case))
    output = case.empty(tensors[0])
    inputs = [case.on_device(t) for t in tensors] if case.rank == root else None
    dist.scatter(output, inputs, group_src=root, group=group)
    same_bits(output, tensors[case.rank])


def reduce_scatter(case, group=None):
    dtype = case.choose.choice([*INTEGRAL, *FLOATING])
    op = random_op(case.choose, dtype)
    sizes = [case.choose.choice(SIZES)] * case.size
    if case.choose.random() < 0.3:
        sizes = [case.choose.choice(SIZES) for _ in range(case.size)]
    # lists[r][k]: what rank r has for rank k
    lists = [[case.tensors(1, (n,), dtype)[0] for n in sizes] for _ in range(case.size)]
    expected = combined([tensors[case.rank] for tensors in lists], op)
    output = case.empty(expected)
    dist.reduce_scatter(output, [case.on_device(t) for t in lists[case.rank]], op, group)
    same_bits(output, expected)


def reduce_scatter_tensor(case, group=None):
    dtype = case.choose.choice([*INTEGRAL, *FLOATING])
    op = random_op(case.choose, dtype)
    size = case.choose.choice(SIZES)
    tensors = case.tensors(case.size, (case.size * size,), dtype)
    expected = combined(tensors, op)[case.rank * size : (case.rank + 1) * size]
    output = case.empty(expected)
    dist.reduce_scatter_tensor(output, case.on_device(tensors[case.rank]), op, group)
    same_bits(output, expected)


def all_to_all_single(case, group=None):
    dtype = any_dtype(case)
    width = case.choose.choice([1, 3, 1000])
    ranks = range(case.size)
    splits = [[case.choose.choice([0, 1, 2, 60]) for _ in ranks] for _ in ranks]
    tensors = [case.tensors(1, (sum(row), width), dtype)[0] for row in splits]
    received = [row[case.rank] for row in splits]
    parts = [t.split(row)[case.rank] for t, row in zip(tensors, splits)]
    output = case.on_device(torch.empty(sum(received), width, dtype=dtype))
    mine = case.on_device(tensors[case.rank])
    dist.all_to_all_single(output, mine, received, splits[case.rank], group)
    same_bits(output, torch.cat(parts))


def all_to_all(case, group=None):
    dtype = any_dtype(case)
    sizes = [[case.choose.choice(SIZES[:10]) for _ in range(case.size)] for _ in range(case.size)]
    lists = [[case.tensors(1, (n,), dtype)[0] for n in row] for row in sizes]
    outputs = [case.empty(row[case.rank]) for row in lists]
    dist.all_to_all(outputs, [case.on_device(t) for t in lists[case.rank]], group)
    for output, row in zip(outputs, lists):
        same_bits(output, row[case.rank])


def messages(case, group=None):
    """Each rank sends to all others, some tags twice; receives are posted in another order."""
    pairs = [
        (source, target, tag, turn)
        for source in range(case.size)
        for target in range(case.size)
        if source != target
        for tag in range(2)
        for turn in range(2)
    ]
    dtype = any_dtype(case)
    sent = {pair: case.tensors(1, (case.choose.choice(SIZES),), dtype)[0] for pair in pairs}
    order = sorted(pairs, key=lambda pair: (pair[3], case.choose.random()))
    works, received = [], {}
    for pair in order:
        source, target, tag, _ = pair
        if target == case.rank:
            received[pair] = case.empty(sent[pair])
            works.append(dist.irecv(received[pair], group_src=source, group=group, tag=tag))
    for pair in sorted(pairs, key=lambda pair: (pair[3], case.choose.random())):
        source, target, tag, _ = pair
        if source == case.rank:
            mine = case.on_device(sent[pair])
            works.append(dist.isend(mine, group_dst=target, group=group, tag=tag))
    for work in works:
        work.wait()
    for pair, tensor in received.items():
        same_bits(tensor, sent[pair])


def any_source(case, group=None):
    tensors = case.tensors(case.size, (case.choose.choice(SIZES),), torch.int64)
    if case.rank != 0:
        dist.send(case.on_device(tensors[case.rank]), group_dst=0, group=group, tag=case.seed)
        return
    seen = set()
    for _ in range(1, case.size):
        output = case.empty(tensors[0])
        source = dist.recv(output, group=group, tag=case.seed)
        source = dist.get_group_rank(group, source) if group is not None else source
        same_bits(output, tensors[source])
        seen.add(source)
    assert seen == set(range(1, case.size))


KINDS = [
    all_reduce,
    reduce,
    broadcast,
    all_gather,
    all_gather_into_tensor,
    gather,
    scatter,
    reduce_scatter,
    reduce_scatter_tensor,
    all_to_all_single,
    all_to_all,
    messages,
    any_source,
]


def run_cases(place, name, seeds):
    function = next(kind for kind in KINDS if kind.__name__ == name)
    for seed in seeds:
        try:
            function(Case(place, seed))
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}") from error


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_random_cases(ranks, kind, count):
    cases = 30 if count == 2 else 12
    ranks(run_cases, kind.__name__, range(cases), ranks=count)


# ---- several groups, streams and operations under way ----


def run_interleaved(place, seed):
    """Collectives of three groups on four streams, none waited for before all are handed over."""
    choose = random.Random(seed)
    everyone = list(range(place.ranks))
    groups = [None, dist.new_group(everyone), dist.new_group(everyone[:-1])]
    streams = [torch.accel.Stream() for _ in range(4)]
    expected, pending = [], []
    for _ in range(60):
        group = choose.choice(groups)
        stream = choose.choice(streams)
        size = choose.choice([1, 100, 5000, 200_000])
        value = choose.randrange(100)
        if group is groups[2] and place.rank == place.ranks - 1:
            continue
        members = place.ranks - (group is groups[2])
        with torch.accel.stream(stream):
            tensor = torch.full((size,), value + place.rank, device=place.device)
            tensor = tensor * 2
            work = dist.all_reduce(tensor, group=group, async_op=True)
        pending.append((work, tensor, stream))
        expected.append(2 * (members * value + sum(range(members))))
    choose.shuffle(pending_order := list(range(len(pending))))
    for index in pending_order:
        work, tensor, _ = pending[index]
        with torch.accel.stream(choose.choice(streams)):
            work.wait()
            assert (tensor == expected[index]).all().item()


@pytest.mark.parametrize("seed", range(4))
def test_groups_and_streams_interleave(ranks, seed):
    ranks(run_interleaved, seed, ranks=3)


def reduce_again_and_again(place, seeds):
    """Large tensors that keep their memory, which the ranks then map: in two groups by turns, some
    inside others, some at no page's beginning, and now and then the memory is made anew."""
    groups = [dist.group.WORLD, dist.new_group(list(range(place.ranks)))]
    for seed in seeds:
        choose = random.Random(seed)
        generator = torch.Generator().manual_seed(seed)
        dtype = choose.choice([*INTEGRAL, *FLOATING])
        count = (2 << 20) // dtype.itemsize
        memory = torch.zeros(5 * count + 7, dtype=dtype, device=place.device)
        page = 4096 // dtype.itemsize
        places = [(0, count), (count, 2 * count + 3), (3 * count + 5, count + 2)]
        places += [(count + 5 * page, count), (page * (seed % 3), 3 * count - 1)]
        expected = torch.zeros_like(memory, device="cpu")
        for turn in range(25):
            if choose.random() < 0.1:
                del memory
                torch.accel.empty_cache()
                memory = expected.to(place.device)
            start, size = choose.choice(places)
            op = random_op(choose, dtype)
            tensors = [make(generator, (size,), dtype) for _ in range(place.ranks)]
            expected[start : start + size] = combined(tensors, op)
            part = memory[start : start + size].copy_(tensors[place.rank])
            dist.all_reduce(part, op, choose.choice(groups))
            if turn % 5 == 4:
                same_bits(memory, expected)


@pytest.mark.parametrize("count", [2, 3])
def test_large_tensors_reduced_again_and_again(ranks, count):
    ranks(reduce_again_and_again, range(4), ranks=count)


def use_futures(place):
    tensor = torch.ones(1000, device=place.device)
    future = dist.all_reduce(tensor, async_op=True).get_future()
    doubled = future.then(lambda done: done.value()[0] * 2)
    assert (doubled.wait() == 2 * place.ranks).all().item()


def use_coalescing(place):
    device = place.device
    tensors = [torch.full((n,), float(place.rank), device=device) for n in (1, 1000, 50_000)]
    with dist._coalescing_manager(device=device, async_ops=True) as manager:
        for tensor in tensors:
            dist.all_reduce(tensor)
    manager.wait()
    total = sum(range(place.ranks))
    assert all((tensor == total).all().item() for tensor in tensors)
    received = torch.empty(5, device=device)
    operations = [
        dist.P2POp(dist.isend, tensors[0].expand(5), (place.rank + 1) % place.ranks),
        dist.P2POp(dist.irecv, received, (place.rank - 1) % place.ranks),
    ]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    assert (received == total).all().item()


def use_the_profiler(place):
    tensor = torch.ones(1000, device=place.device)
    with torch.profiler.profile() as profile:
        dist.all_reduce(tensor)
        torch.accel.synchronize()
    events = {event.name: event for event in profile.events()}
    assert events["all_reduce"].device_type == torch.autograd.DeviceType.PrivateUse1


def use_premultiplied_sums(place):
    tensor = torch.full((100,), 2.0, device=place.device, dtype=torch.bfloat16)
    dist.all_reduce(tensor, dist._make_nccl_premul_sum(0.5 + place.rank))
    assert (tensor == sum(2 * (0.5 + rank) for rank in range(place.ranks))).all().item()


def random_sparse(generator, choose, shape, sparse_dims, dtype):
    count = choose.choice([0, 1, 7, 500])
    indices = [torch.randint(0, n, (count,), generator=generator) for n in shape[:sparse_dims]]
    values = make(generator, (count, *shape[sparse_dims:]), dtype)
    return torch.sparse_coo_tensor(torch.stack(indices), values, shape, check_invariants=True)


def sum_sparse_tensors(place, seeds):
    for seed in seeds:
        choose = random.Random(seed)
        generator = torch.Generator().manual_seed(seed)
        dtype = choose.choice([torch.int32, torch.int64, *FLOATING])
        shape, sparse_dims = (choose.choice([1, 9, 60]), 3, 4), choose.randint(1, 3)
        tensors = [
            random_sparse(generator, choose, shape, sparse_dims, dtype) for _ in range(place.ranks)
        ]
        mine = tensors[place.rank].to(place.device)
        work = dist.all_reduce(mine, async_op=True)
        work.wait()
        assert mine.is_sparse and mine.is_coalesced() and mine.device == place.device
        # 16 bits are added up in fp32 and rounded once.
        exact = sum(tensor.double().to_dense() for tensor in tensors)
        rounding = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
        torch.testing.assert_close(
            mine.double().cpu().to_dense(), exact, rtol=rounding, atol=1e-4 if rounding else 0.0
        )
        # The same bits on every rank.
        indices, values = mine.indices(), mine.values().contiguous()
        for part in (indices, values):
            first = part.clone()
            dist.broadcast(first, 0)
            same_bits(part, first.cpu())


def use_sparse_tensors(place):
    sum_sparse_tensors(place, range(12))
    sizes = [4, 5]
    indices = torch.zeros(1, 1, dtype=torch.int64, device=place.device)
    ones = torch.ones(1, device=place.device)
    tensor = torch.sparse_coo_tensor(indices, ones, (sizes[place.rank % 2],), check_invariants=True)
    with pytest.raises(ValueError, match="sparse tensors of different shapes"):
        dist.all_reduce(tensor)
    with pytest.raises(ValueError, match="only works with ReduceOp.SUM"):
        dist.all_reduce(tensor, dist.ReduceOp.MAX)


@pytest.mark.parametrize(
    "case",
    [use_futures, use_coalescing, use_the_profiler, use_premultiplied_sums, use_sparse_tensors],
    ids=lambda case: case.__name__,
)
def test_case(ranks, case):
    ranks(case, ranks=3)


def subgroups_of_a_bound_device(place):
    """The device alone names the backend, and with a device PyTorch would split groups."""
    dist.init_process_group(
        store=dist.FileStore(place.store, place.ranks),
        rank=place.rank,
        world_size=place.ranks,
        device_id=place.device,
        timeout=timedelta(seconds=60),
    )
    assert dist.group.WORLD._get_backend(place.device).name() == "accl"
    group, _ = dist.new_subgroups_by_enumeration([[0, 1], [2, 3]])
    tensor = torch.full((10,), float(place.rank), device=place.device)
    dist.all_reduce(tensor, group=group)
    assert (tensor == [1, 1, 5, 5][place.rank]).all().item()


def test_subgroups_of_a_bound_device(ranks):
    ranks(subgroups_of_a_bound_device, ranks=4, join=False)


# ---- groups split from others ----


def sums_ranks(place, group):
    """Whether a collective of the group adds up its ranks."""
    tensor = torch.full((1000,), float(place.rank), device=place.device)
    dist.all_reduce(tensor, group=group)
    return (tensor == sum(dist.get_process_group_ranks(group))).all().item()


def split_groups(place, backend):
    dist.init_process_group(
        backend,
        store=dist.FileStore(place.store, place.ranks),
        rank=place.rank,
        world_size=place.ranks,
        device_id=place.device,
        timeout=timedelta(seconds=60),
    )
    world = dist.group.WORLD
    last = place.ranks - 1
    middle = list(range(1, last))
    ends = [0, last]
    uneven = dist.split_group(split_ranks=[ends, middle] if middle else [ends])
    group_ranks = ends if place.rank in ends else middle
    assert dist.get_process_group_ranks(uneven) == group_ranks
    accl = uneven._get_backend(place.device)
    assert accl.name() == "accl" and accl.options.global_ranks_in_group == group_ranks
    assert sums_ranks(place, uneven) and sums_ranks(place, world)
    if backend.startswith("cpu"):
        tensor = torch.full((3,), place.rank)
        dist.all_reduce(tensor, group=uneven)
        assert (tensor == sum(group_ranks)).all()
    # A mesh splits the world where the device is known.
    shape = (place.ranks,) if place.ranks % 2 else (place.ranks // 2, 2)
    mesh = init_device_mesh("accel", shape)
    assert all(sums_ranks(place, group) for group in mesh.get_all_groups())
    numbers = torch.arange(12.0)
    sharded = distribute_tensor(numbers.to(place.device), mesh, [Shard(0)] * len(shape))
    assert torch.equal(sharded.full_tensor().cpu(), numbers)
    # The options are the new group's own.
    timeout = timedelta(seconds=33)
    some = dist.split_group(split_ranks=[[0, 1]], timeout=timeout, group_desc="some")
    assert (some is None) == (place.rank > 1)
    if some is not None:
        assert some._get_backend(place.device).options._timeout == timeout
        # Of a group that was split itself, by ranks in that group.
        alone = dist.split_group(some, [[0], [1]])
        assert dist.get_process_group_ranks(alone) == [place.rank] and sums_ranks(place, alone)
    assert world._get_backend(place.device).options._timeout == timedelta(seconds=60)
    if backend == "accl":  # Gloo does not meet where ranks know of different numbers of groups
        assert sums_ranks(place, dist.split_group(split_ranks=[list(range(place.ranks))]))
    assert sums_ranks(place, world)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_split_groups(ranks, count):
    ranks(split_groups, "accl", ranks=count, join=False)


def test_split_groups_beside_gloo():
    # In processes of its own: torch 2.13's Gloo can be split where it is a process' first.
    pool = Ranks()
    try:
        pool(split_groups, "cpu:gloo,accel:accl", ranks=3, join=False)
    finally:
        pool.close()


# ---- several hosts ----


def run_on_hosts(place, hosts, seeds):
    os.environ["ACCEL_HOST_ID"] = hosts[place.rank]
    try:
        place.join()
    finally:
        del os.environ["ACCEL_HOST_ID"]
    for kind in KINDS:
        # Gloo's messages between two ranks are received in the order in which they were sent.
        if kind is not messages:
            run_cases(place, kind.__name__, seeds)
    use_futures(place)
    use_premultiplied_sums(place)


@pytest.mark.parametrize("hosts", ["ab", "aab", "abab"])
def test_several_hosts(ranks, hosts):
    ranks(run_on_hosts, hosts, range(4), ranks=len(hosts), join=False)
