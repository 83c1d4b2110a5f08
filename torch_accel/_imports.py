"""Acts on a module of torch when somebody else imports it: importing it first would cost a program
that never does seconds."""

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType


def when_imported(name: str, action: Callable[[ModuleType], None]) -> None:
    """Calls action(module) now if the module is loaded, else as soon as it is."""
    if name in sys.modules:
        action(sys.modules[name])
    else:
        sys.meta_path.insert(0, _AfterImport(name, action))


class _AfterImport(importlib.abc.MetaPathFinder):
    """Lets the next finders import the module, acts on it, and is gone."""

    def __init__(self, name: str, action: Callable[[ModuleType], None]):
        self._name, self._action = name, action

    def find_spec(self, name, path, target=None):
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_act(module: ModuleType) -> None:
            execute(module)
            self._action(module)

        spec.loader.exec_module = execute_and_act
        return spec
