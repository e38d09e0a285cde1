"""The names that the modules of a model had in other versions and tools, for adapters that were saved there."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final

from osler.policies.families import Family, ModuleNames

if TYPE_CHECKING:
    from peft import LoraConfig

PREFIX: Final = "base_model.model."
"""What peft puts before the names of a model's weights. Some tools leave it out."""

PRESENT: Final[ModuleNames] = ()
"""The names of the installed Transformers."""


def find_names(keys: Iterable[str], family: Family, modules: Collection[str]) -> ModuleNames:
    """The first naming of the family under which every LoRA weight in `keys` belongs to one of `modules`; else `PRESENT`."""
    namings = (PRESENT, *family.former_names)
    return next((names for names in namings if adapted_modules(keys, names) <= set(modules)), PRESENT)


def adapted_modules(keys: Iterable[str], names: ModuleNames) -> set[str]:
    """The present names of the modules that the LoRA weights in `keys` belong to."""
    return {to_present(key.removeprefix(PREFIX).partition(".lora_")[0], names) for key in keys if ".lora_" in key}


def to_present(name: str, names: ModuleNames) -> str:
    """The present name of a module or weight: "model.layers.0.mlp" -> "model.language_model.layers.0.mlp"."""
    return _replace_first(name, names)


def to_former(name: str, names: ModuleNames) -> str:
    """The opposite of `to_present`."""
    return _replace_first(name, tuple((present, former) for former, present in names))


def rename_targets(config: LoraConfig, names: ModuleNames, modules: Collection[str], adapted: Collection[str]) -> None:
    """Let peft's `config` target the same modules by their present names.

    Its patterns may be written for former or for present names, because some tools rename the weights alone. Those of `modules` count that
    come nearest to the ones with weights, `adapted`.
    """
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.other import get_pattern_key

    def resolve(pattern: dict[str, Any]) -> dict[str, Any]:
        found = {name: get_pattern_key(list(pattern), to_former(name, names)) for name in targets}
        found = {name: key if key in pattern else get_pattern_key(list(pattern), name) for name, key in found.items()}
        return {re.escape(name): pattern[key] for name, key in found.items() if key in pattern}

    former = {name for name in modules if check_target_module_exists(config, to_former(name, names))}
    present = {name for name in modules if check_target_module_exists(config, name)}
    targets = min(former, present, key=lambda found: len(found.symmetric_difference(adapted)))
    config.rank_pattern, config.alpha_pattern = resolve(config.rank_pattern), resolve(config.alpha_pattern)
    config.target_modules, config.exclude_modules = targets, None
    config.layers_to_transform = config.layers_pattern = None


def _replace_first(name: str, prefixes: ModuleNames) -> str:
    for old, new in prefixes:
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name
