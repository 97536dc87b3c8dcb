"""The models that the stand-in has, and what sets them apart on the wire."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_O_NAME = re.compile(r"^o\d")
_GPT_NAME = re.compile(r"^gpt-[5-9]")
_GPT_5 = ("minimal", "low", "medium", "high")
_GPT_5_1 = ("none", "low", "medium", "high")
_GPT_5_2 = (*_GPT_5_1, "xhigh")
_GPT_5_6 = (*_GPT_5_2, "max")
_O_SERIES = ("low", "medium", "high")


@dataclass(frozen=True, slots=True)
class Model:
    """A model: its reasoning efforts, the default one, and its longest output in tokens."""

    name: str
    efforts: tuple[str, ...] = ()
    """Empty: the model does not reason."""
    default_effort: str | None = None
    max_output: int = 16_384

    @property
    def reasons(self) -> bool:
        return bool(self.efforts)


_MODELS = (
    Model("gpt-4o"),
    Model("gpt-4o-mini"),
    Model("gpt-4.1", max_output=32_768),
    Model("gpt-4.1-mini", max_output=32_768),
    Model("gpt-4.1-nano", max_output=32_768),
    Model("gpt-5", _GPT_5, "medium", 128_000),
    Model("gpt-5-mini", _GPT_5, "medium", 128_000),
    Model("gpt-5-nano", _GPT_5, "medium", 128_000),
    Model("gpt-5.1", _GPT_5_1, "none", 128_000),
    Model("gpt-5.2", _GPT_5_2, "none", 128_000),
    Model("gpt-5.4", _GPT_5_2, "none", 128_000),
    Model("gpt-5.4-mini", _GPT_5_2, "none", 128_000),
    Model("gpt-5.5", _GPT_5_2, "medium", 128_000),
    Model("gpt-5.6-luna", _GPT_5_6, "medium", 128_000),
    Model("gpt-5.6-sol", _GPT_5_6, "medium", 128_000),
    Model("gpt-5.6-terra", _GPT_5_6, "medium", 128_000),
    Model("o1", _O_SERIES, "medium", 100_000),
    Model("o3", _O_SERIES, "medium", 100_000),
    Model("o3-mini", _O_SERIES, "medium", 100_000),
    Model("o4-mini", _O_SERIES, "medium", 100_000),
)


class Catalogue:
    """Finds models by name, also by the name of a dated snapshot."""

    def __init__(self, extra: Iterable[str] = ()) -> None:
        models = (*_MODELS, *map(_describe, extra))
        self._models = {model.name: model for model in models}

    def names(self) -> list[str]:
        return list(self._models)

    def find(self, name: str) -> Model | None:
        return self._models.get(name) or self._models.get(_SNAPSHOT.sub("", name))


def _describe(name: str) -> Model:
    """Describe a model by its name alone: gpt-5 and later, and o* reason."""
    found = [model for model in _MODELS if name.startswith(model.name)]
    if found:
        nearest = max(found, key=lambda model: len(model.name))
        return Model(name, nearest.efforts, nearest.default_effort, nearest.max_output)
    if _GPT_NAME.match(name):
        return Model(name, _GPT_5_2, "medium", 128_000)
    if _O_NAME.match(name):
        return Model(name, _O_SERIES, "medium", 100_000)
    return Model(name)
