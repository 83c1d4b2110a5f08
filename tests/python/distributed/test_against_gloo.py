"""Random programs of collectives, run by accl on accel and by Gloo on the CPU in the same
processes: in every dtype, over shapes, strides, sizes, groups and streams, with several operations
under way. Integers and what is only moved are equal in every bit, sums of floating numbers within
rounding.

Programs are the same on all ranks; where tensors lie in memory differs. What Gloo cannot do
(averages of integers, lists of uneven sizes) test_collectives.py compares with a plain reference.
ACCEL_TEST_COLLECTIVES=3000 runs so many operations on 2 and on 4 ranks."""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from test_collectives import make, same_bits
from torch import Tensor
from torch import distributed as dist

OPERATIONS = int(os.environ.get("ACCEL_TEST_COLLECTIVES", "200"))
UNDER_WAY = 12

SIGNED = [torch.int8, torch.int16, torch.int32, torch.int64]
UNSIGNED = [torch.uint8, torch.uint16, torch.uint32, torch.uint64]
FLOATING = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
COMPLEX = [torch.complex64, torch.complex128]
NARROW = [torch.float8_e4m3fn, torch.float8_e5m2]
EVERY = [torch.bool, *SIGNED, *UNSIGNED, *FLOATING, *COMPLEX, *NARROW]
# What Gloo moves in the place of what it does not know: the same bits.
SAME_BITS = {
    torch.int16: torch.float16,
    torch.uint16: torch.float16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e5m2: torch.uint8,
}
# And what it computes with: more bits, of which the lower ones are the same.
MORE_BITS = {
    torch.int16: torch.int32,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,
}


class Placed:
    """A tensor in memory of the device: dense, or permuted, with gaps and at an offset."""

    def __init__(self, choose: random.Random, tensor: Tensor, device: torch.device):
        dense = choose.random() < 0.5
        order = list(range(tensor.dim()))
        strides = [0] * tensor.dim()
        stride, offset = 1, 0
        if not dense:
            choose.shuffle(order)
            stride, offset = choose.choice([1, 2, 3]), choose.randrange(5)
        for dimension in reversed(order):
            strides[dimension] = stride
            stride *= max(1, tensor.shape[dimension])
            if not dense:
                stride += choose.choice([0, 0, 1])
        self._where = (tensor.shape, strides, offset)
        # What lies around it stays as it is.
        self._memory = (torch.arange(offset + stride + 1) % 7).to(tensor.dtype)
        self._memory.as_strided(*self._where).copy_(tensor)
        self._on_device = self._memory.to(device)
        self.tensor = self._on_device.as_strided(*self._where)

    def check(self, expected: Tensor | None, rounding: float) -> None:
        """That it holds what is expected; None stands for what it was."""
        memory = self._on_device.cpu()
        if expected is not None:
            actual = memory.as_strided(*self._where)
            if rounding:
                torch.testing.assert_close(actual, expected, rtol=rounding, atol=2 * rounding)
            else:
                same_bits(actual.contiguous(), expected.contiguous())
            self._memory.as_strided(*self._where).copy_(actual)
        same_bits(memory, self._memory)


@dataclass
class Call:
    """One rank's part of an operation. The tensors are on the CPU and dense."""

    run: Callable[[list[Tensor], list[Tensor], bool], dist.Work | None]
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    dtype: torch.dtype = torch.float32
    op: dist.ReduceOp | None = None
    is_defined: bool = True  # what the outputs hold afterwards
    is_gathered: bool = False
    for_gloo: bool = True


class Case:
    """What the kinds below choose from: the same on all ranks of the group, but for own()."""

    def __init__(self, seed: int, group: dist.ProcessGroup):
        self.choose = random.Random(seed)
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self._generator = torch.Generator().manual_seed(seed * 8 + self.rank)

    def shape(self) -> tuple[int, ...]:
        largest = self.choose.choice([1, 3, 9, 9, 40])
        shape = [self.choose.randint(0, largest) for _ in range(self.choose.choice([0, 1, 2, 3]))]
        if self.choose.random() < 0.1:
            shape = [self.choose.choice([1023, 4096, 70_001])]
        return tuple(shape)

    def rows(self) -> tuple[int, ...]:
        """A shape that has a first dimension."""
        return self.shape() or (1,)

    def own(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return make(self._generator, shape, dtype)

    def reduction(self) -> tuple[torch.dtype, dist.ReduceOp]:
        dtype = self.choose.choice([torch.bool, *SIGNED, *UNSIGNED, *FLOATING, *COMPLEX])
        op = dist.ReduceOp
        ops = [op.SUM]
        if not dtype.is_complex:
            ops += [op.PRODUCT, op.MIN, op.MAX]
        if dtype.is_floating_point:
            ops += [op.AVG]
        elif not dtype.is_complex:
            ops += [op.BAND, op.BOR, op.BXOR]
        return dtype, self.choose.choice(ops)

    def any_rank(self) -> int:
        return self.choose.randrange(self.size)


# ---- the kinds: each makes a Call ----


def all_reduce(case: Case) -> Call:
    dtype, op = case.reduction()

    def run(_, outputs, async_op):
        return dist.all_reduce(outputs[0], op, case.group, async_op)

    return Call(run, [], [case.own(case.shape(), dtype)], dtype, op)


def all_reduce_coalesced(case: Case) -> Call:
    dtype, op = case.reduction()
    shapes = [case.shape() for _ in range(case.choose.randint(1, 4))]

    def run(_, outputs, async_op):
        future = dist.all_reduce_coalesced(outputs, op, case.group, async_op)
        return future if async_op else None

    return Call(run, [], [case.own(shape, dtype) for shape in shapes], dtype, op)


def reduce(case: Case) -> Call:
    dtype, op = case.reduction()
    root = case.any_rank()

    def run(_, outputs, async_op):
        return dist.reduce(outputs[0], op=op, group=case.group, async_op=async_op, group_dst=root)

    own = case.own(case.shape(), dtype)
    return Call(run, [], [own], dtype, op, is_defined=case.rank == root)


def broadcast(case: Case) -> Call:
    dtype, root = case.choose.choice(EVERY), case.any_rank()

    def run(_, outputs, async_op):
        return dist.broadcast(outputs[0], group=case.group, async_op=async_op, group_src=root)

    return Call(run, [], [case.own(case.shape(), dtype)], dtype)


def all_gather(case: Case) -> Call:
    dtype, shape = case.choose.choice(EVERY), case.shape()

    def run(inputs, outputs, async_op):
        return dist.all_gather(outputs, inputs[0], case.group, async_op)

    room = [torch.zeros(shape).to(dtype) for _ in range(case.size)]
    return Call(run, [case.own(shape, dtype)], room, dtype)


def all_gather_into_tensor(case: Case) -> Call:
    dtype, shape = case.choose.choice(EVERY), case.rows()

    def run(inputs, outputs, async_op):
        return dist.all_gather_into_tensor(outputs[0], inputs[0], case.group, async_op)

    room = torch.zeros(case.size * shape[0], *shape[1:]).to(dtype)
    return Call(run, [case.own(shape, dtype)], [room], dtype)


def gather(case: Case) -> Call:
    dtype, shape, root = case.choose.choice(EVERY), case.shape(), case.any_rank()

    def run(inputs, outputs, async_op):
        room = outputs if case.rank == root else None
        return dist.gather(inputs[0], room, group=case.group, async_op=async_op, group_dst=root)

    room = [torch.zeros(shape).to(dtype) for _ in range(case.size if case.rank == root else 0)]
    return Call(run, [case.own(shape, dtype)], room, dtype, is_gathered=True)


def scatter(case: Case) -> Call:
    dtype, shape, root = case.choose.choice(EVERY), case.shape(), case.any_rank()

    def run(inputs, outputs, async_op):
        parts = inputs if case.rank == root else None
        return dist.scatter(outputs[0], parts, group=case.group, async_op=async_op, group_src=root)

    parts = [case.own(shape, dtype) for _ in range(case.size if case.rank == root else 0)]
    return Call(run, parts, [torch.zeros(shape).to(dtype)], dtype)


def reduce_scatter(case: Case) -> Call:
    dtype, op = case.reduction()
    shape = case.shape()

    def run(inputs, outputs, async_op):
        return dist.reduce_scatter(outputs[0], inputs, op, case.group, async_op)

    parts = [case.own(shape, dtype) for _ in range(case.size)]
    return Call(run, parts, [torch.zeros(shape).to(dtype)], dtype, op)


def reduce_scatter_tensor(case: Case) -> Call:
    dtype, op = case.reduction()
    shape = case.rows()

    def run(inputs, outputs, async_op):
        return dist.reduce_scatter_tensor(outputs[0], inputs[0], op, case.group, async_op)

    whole = case.own((case.size * shape[0], *shape[1:]), dtype)
    return Call(run, [whole], [torch.zeros(shape).to(dtype)], dtype, op)


def splits_of(case: Case) -> tuple[list[int], list[int]]:
    """How many rows this rank sends to each, and receives from each."""
    largest = case.choose.choice([1, 3, 20])
    rows = [[case.choose.randint(0, largest) for _ in range(case.size)] for _ in range(case.size)]
    return rows[case.rank], [row[case.rank] for row in rows]


def all_to_all_single(case: Case) -> Call:
    dtype, width = case.choose.choice(EVERY), case.choose.choice([(), (1,), (3, 2)])
    sent, received = splits_of(case)

    def run(inputs, outputs, async_op):
        return dist.all_to_all_single(outputs[0], inputs[0], received, sent, case.group, async_op)

    room = torch.zeros(sum(received), *width).to(dtype)
    return Call(run, [case.own((sum(sent), *width), dtype)], [room], dtype)


def all_to_all(case: Case) -> Call:
    dtype, shape = case.choose.choice(EVERY), case.shape()

    def run(inputs, outputs, async_op):
        return dist.all_to_all(outputs, inputs, case.group, async_op)

    parts = [case.own(shape, dtype) for _ in range(case.size)]
    return Call(run, parts, [torch.zeros(shape).to(dtype) for _ in parts], dtype)


def message(case: Case) -> Call:
    dtype, shape, tag = case.choose.choice(EVERY), case.shape(), case.choose.randrange(3)
    source, target = case.any_rank(), case.any_rank()
    if source == target or case.rank not in (source, target):
        return Call(lambda *_: None, dtype=dtype)
    if case.rank == source:

        def send(inputs, _, async_op):
            function = dist.isend if async_op else dist.send
            return function(inputs[0], group=case.group, tag=tag, group_dst=target)

        return Call(send, [case.own(shape, dtype)], [], dtype)

    def receive(_, outputs, async_op):
        function = dist.irecv if async_op else dist.recv
        work = function(outputs[0], group=case.group, tag=tag, group_src=source)
        return work if async_op else None

    return Call(receive, [], [torch.zeros(shape).to(dtype)], dtype)


def barrier(case: Case) -> Call:
    return Call(lambda *_: dist.barrier(case.group), for_gloo=False)


KINDS = [
    all_reduce,
    all_reduce_coalesced,
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
    message,
    barrier,
]


# ---- the programs ----


def of_gloo(call: Call) -> list[Tensor]:
    """What the outputs hold after Gloo has done the same on the CPU."""
    is_reduction = call.op is not None

    def there(tensor: Tensor) -> Tensor:
        if is_reduction:
            return tensor.to(MORE_BITS.get(call.dtype, call.dtype), copy=True)
        if call.is_gathered and call.dtype.is_complex:  # which Gloo does not gather
            return torch.view_as_real(tensor).clone()
        return tensor.clone().view(SAME_BITS.get(call.dtype, call.dtype))

    def back(tensor: Tensor) -> Tensor:
        if call.dtype == torch.bool:  # Gloo adds up bytes
            return tensor.view(torch.uint8) != 0
        if is_reduction:
            return tensor.to(call.dtype)
        if call.is_gathered and call.dtype.is_complex:
            return torch.view_as_complex(tensor)
        return tensor.view(call.dtype)

    outputs = [there(tensor) for tensor in call.outputs]
    work = call.run([there(tensor) for tensor in call.inputs], outputs, True)
    if work is not None:
        work.wait()
    return [back(tensor) for tensor in outputs]


def rounding_of(call: Call, size: int) -> float:
    inexact = (dist.ReduceOp.SUM, dist.ReduceOp.AVG, dist.ReduceOp.PRODUCT)
    is_real_number = call.dtype.is_floating_point or call.dtype.is_complex
    return 4 * size * torch.finfo(call.dtype).eps if call.op in inexact and is_real_number else 0.0


@dataclass
class UnderWay:
    name: str
    size: int
    call: Call
    inputs: list[Placed]
    outputs: list[Placed]
    expected: list[Tensor]
    work: dist.Work | None
    stream: torch.Stream

    def finish(self, stream: torch.Stream) -> None:
        with torch.accel.stream(stream if self.work is not None else self.stream):
            if self.work is not None:
                self.work.wait()
            rounding = rounding_of(self.call, self.size)
            try:
                for tensor in self.inputs:
                    tensor.check(None, 0)
                for tensor, expected in zip(self.outputs, self.expected):
                    if self.call.is_defined:
                        tensor.check(expected, rounding)
            except Exception as error:
                what = f"{self.name} of {self.call.dtype}, {self.call.op}"
                raise AssertionError(what) from error


def run_program(place, seed: int, count: int) -> int:
    """Returns how many operations were compared on this rank."""
    choose = random.Random(seed)
    own_choices = random.Random(seed * 8 + place.rank)
    groups = [dist.group.WORLD]
    for _ in range(4):
        size = choose.randint(1, place.ranks)
        groups.append(dist.new_group(sorted(choose.sample(range(place.ranks), size))))
    streams = [torch.accel.current_stream(), *(torch.accel.Stream() for _ in range(3))]
    under_way: list[UnderWay] = []
    compared = 0
    for index in range(count):
        kind, group, stream = choose.choice(KINDS), choose.choice(groups), choose.choice(streams)
        async_op = choose.random() < 0.5
        if group is not dist.GroupMember.NON_GROUP_MEMBER:
            case = Case(seed * 100_000 + index, group)
            call = kind(case)
            with torch.accel.stream(stream):
                inputs = [Placed(own_choices, tensor, place.device) for tensor in call.inputs]
                outputs = [Placed(own_choices, tensor, place.device) for tensor in call.outputs]
                work = call.run([p.tensor for p in inputs], [p.tensor for p in outputs], async_op)
            expected = of_gloo(call) if call.for_gloo else []
            name = f"seed {seed}, operation {index}: {kind.__name__}"
            under_way.append(
                UnderWay(name, case.size, call, inputs, outputs, expected, work, stream)
            )
        if index % UNDER_WAY == UNDER_WAY - 1 or index == count - 1:
            own_choices.shuffle(under_way)
            for operation in under_way:
                operation.finish(own_choices.choice(streams))
            compared += len(under_way)
            under_way.clear()
    return compared


PROGRAM = 100


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("seed", range(max(1, OPERATIONS // PROGRAM)))
def test_programs(ranks, seed, count):
    compared = ranks(run_program, seed, PROGRAM, ranks=count)
    assert compared[0] >= PROGRAM // 4  # those of the world, at least
