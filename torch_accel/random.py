"""torch.accel: the random generators of the devices. States are ByteTensors on the CPU."""

import torch
from torch.types import Device

from torch_accel import _C
from torch_accel._utils import _get_device_index

default_generators: tuple[torch.Generator, ...] = tuple(
    _C.default_generator(index) for index in range(_C.device_count())
)


def _get_generator(device: Device) -> torch.Generator:
    """The device's own generator, which torch.compile asks for."""
    index = _get_device_index(device, optional=True)
    if not 0 <= index < len(default_generators):
        raise RuntimeError(f"Invalid accel device {index}: there are {len(default_generators)}")
    return default_generators[index]


def get_rng_state(device: Device = "accel") -> torch.Tensor:
    """The state of the device's generator."""
    return _get_generator(device).get_state()


def get_rng_state_all() -> list[torch.Tensor]:
    """The states of all devices' generators."""
    return [generator.get_state() for generator in default_generators]


def set_rng_state(new_state: torch.Tensor, device: Device = "accel") -> None:
    """Sets the state of the device's generator to one that get_rng_state() gave."""
    _get_generator(device).set_state(new_state)


def set_rng_state_all(new_states: list[torch.Tensor]) -> None:
    """Sets the states of all devices' generators."""
    for generator, state in zip(default_generators, new_states, strict=True):
        generator.set_state(state)


def manual_seed(seed: int) -> None:
    """Seeds the current device's generator."""
    _get_generator(None).manual_seed(int(seed))


def manual_seed_all(seed: int) -> None:
    """Seeds the generators of all devices; torch.manual_seed() calls this."""
    for generator in default_generators:
        generator.manual_seed(int(seed))


def seed() -> None:
    """Seeds the current device's generator with a random number."""
    _get_generator(None).seed()


def seed_all() -> None:
    """Seeds the generators of all devices with one random number."""
    manual_seed_all(torch.Generator().seed())


def initial_seed() -> int:
    """The seed of the current device's generator."""
    return _get_generator(None).initial_seed()
