"""PromQL expressions over the declared metrics, so that no expression names an unknown metric.

Each of several metrics processes shows the whole cluster. So their values are never added up: the
largest counts.
"""

from services.metrics.export.metric_definitions import MetricDefinition


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
    growth = f"increase({series(metric, **labels)}[{minutes}m])"
    return f"sum({largest(metric, growth)})" if metric.labels else largest(metric, growth)


def largest(metric: MetricDefinition, expression: str) -> str:
    """Return the largest value over all processes, for each combination of the metric's labels."""
    by = f" by ({', '.join(metric.labels)}) " if metric.labels else ""
    return f"max{by}({expression})"


def quantile(metric: MetricDefinition, share: float, minutes: int) -> str:
    """Return a quantile (`share` from 0 to 1) of a histogram's observations in the last minutes."""
    return f"histogram_quantile({share:g}, max by (le) (rate({series(metric)}[{minutes}m])))"
