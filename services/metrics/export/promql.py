"""PromQL expressions over the declared metrics, so that no expression names an unknown metric.

Each of several metrics processes of a cell shows the whole cell. So their values are never added
up: the largest counts. Several cells at one Prometheus differ in the label `cell`, which the scrape
configuration adds; without the label, all processes are of one cell.
"""

from collections.abc import Sequence

from services.metrics.export.metric_definitions import MetricDefinition

CELL_LABEL = "cell"


def series(metric: MetricDefinition, **labels: str) -> str:
    """Return the metric's series selector: `name{label="value"}`.

    Raises ValueError for an unknown label.
    """
    if unknown := sorted(set(labels) - set(metric.labels)):
        raise ValueError(f"{metric.name} has no label {unknown[0]}")
    name = metric.name + {"gauge": "", "counter": "_total", "histogram": "_bucket"}[metric.kind]
    matched = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{matched}}}" if matched else name


def increase(metric: MetricDefinition, minutes: int, **labels: str) -> str:
    """Return the growth of a counter in the last minutes, summed over its labels."""
    growth = largest(metric, f"increase({series(metric, **labels)}[{minutes}m])")
    return by_cell("sum", growth) if metric.labels else growth


def largest(metric: MetricDefinition, expression: str) -> str:
    """Return the largest value over all processes, for each combination of the metric's labels."""
    return by_cell("max", expression, metric.labels)


def by_cell(aggregation: str, expression: str, labels: Sequence[str] = ()) -> str:
    """Return an aggregation over everything except the cell and these labels."""
    return f"{aggregation} by ({', '.join((CELL_LABEL, *labels))}) ({expression})"


def quantile(metric: MetricDefinition, share: float, minutes: int) -> str:
    """Return a quantile (`share` from 0 to 1) of a histogram's observations in the last minutes."""
    buckets = by_cell("max", f"rate({series(metric)}[{minutes}m])", ("le",))
    return f"histogram_quantile({share:g}, {buckets})"
