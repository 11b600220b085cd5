"""Faults to be put into studies, by name: those of all modules here."""

from importlib import import_module
from pkgutil import iter_modules

from tests.quality.study import Fault

# Each module has its own FAULTS, by names that no other has.
FAULTS: dict[str, Fault] = {}
for _module in sorted(module.name for module in iter_modules(__path__)):
    for _name, _fault in import_module(f"{__name__}.{_module}").FAULTS.items():
        assert _name not in FAULTS, _name
        FAULTS[_name] = _fault
