"""An independent reader of Prometheus' text format, as strict as promtool."""

import re
from dataclasses import dataclass, field

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{((?:{_LABEL})(?:,{_LABEL})*)\}})? (\S+)")
_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
_NOT_BASE_UNITS = re.compile(r"_(milliseconds|ms|minutes|hours|percent|kilobytes|nanousd)(_|$)")

Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class MetricFamily:
    name: str
    kind: str
    help: str
    samples: dict[tuple[str, Labels], float] = field(default_factory=dict)

    def value(self, suffix: str = "", **labels: str) -> float:
        return self.samples[self.name + suffix, tuple(sorted(labels.items()))]


def read(text: str) -> dict[str, MetricFamily]:
    """Return the families by name (a counter's without `_total`).

    Asserts the rules of scrapers and linters.
    """
    families: dict[str, MetricFamily] = {}
    assert text.endswith("\n")
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("# HELP "):
            name, _, help_text = line.removeprefix("# HELP ").partition(" ")
            kind_name, kind = next(lines).removeprefix("# TYPE ").split(" ")
            assert kind_name == name
            name = name.removesuffix("_total")
            assert name not in families, f"{name} twice"
            assert help_text, f"{name} has no help text"
            assert not _NOT_BASE_UNITS.search(name), f"{name} is not in base units"
            family = families[name] = MetricFamily(name, kind, help_text)
            continue
        _add_sample(family, line)
    for family in families.values():
        if family.kind == "histogram":
            _check_histogram(family)
    return families


def _add_sample(family: MetricFamily, line: str) -> None:
    matched = _SAMPLE.fullmatch(line)
    assert matched, f"not a sample: {line!r}"
    name, labels, value = matched.groups()
    assert name in {family.name + suffix for suffix in _SUFFIXES[family.kind]}, (
        f"{name} does not belong to {family}"
    )
    pairs = tuple(sorted(tuple(pair.split("=", 1)) for pair in re.findall(_LABEL, labels or "")))
    key = (name, tuple((label, text.strip('"')) for label, text in pairs))
    assert key not in family.samples, f"{key} twice"
    family.samples[key] = float(value)
    if family.kind != "gauge":
        assert float(value) >= 0, f"{key} is negative"


def _check_histogram(family: MetricFamily) -> None:
    buckets = [
        (float(dict(labels)["le"]), value)
        for (name, labels), value in family.samples.items()
        if name.endswith("_bucket")
    ]
    assert buckets == sorted(buckets), f"{family.name}: buckets are not in order, or do not grow"
    assert buckets[-1] == (float("inf"), family.value("_count")), (
        f"{family.name}: the last bucket differs from the count"
    )
    assert ("_sum" in "".join(name for name, _ in family.samples)) == (buckets[-1][1] >= 0)
