"""Expressions over the metrics that are declared, so that none can name one that is not.

Of several metrics processes each shows the whole: what they say is never added up, the largest counts.
"""

from services.metrics.export.metric_definitions import Metric


def series(metric: Metric, **labels: str) -> str:
    """The metric's series as Prometheus knows it: `name{label="value"}`. ValueError for a label that it lacks."""
    if unknown := sorted(set(labels) - set(metric.labels)):
        raise ValueError(f"{metric.name} has no label {unknown[0]}")
    name = metric.name + {"gauge": "", "counter": "_total", "histogram": "_bucket"}[metric.kind]
    matched = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{matched}}}" if matched else name


def increase(metric: Metric, minutes: int, **labels: str) -> str:
    """By how much a counter grew in the last minutes, over all its labels' values."""
    grown = f"increase({series(metric, **labels)}[{minutes}m])"
    return f"sum({largest(metric, grown)})" if metric.labels else largest(metric, grown)


def largest(metric: Metric, expression: str) -> str:
    """Of the processes that tell a metric, with its labels."""
    by = f" by ({', '.join(metric.labels)}) " if metric.labels else ""
    return f"max{by}({expression})"


def quantile(metric: Metric, share: float, minutes: int) -> str:
    """The value below which a share (0 to 1) of a histogram's observations of the last minutes lies."""
    return f"histogram_quantile({share:g}, max by (le) (rate({series(metric)}[{minutes}m])))"
