"""The files in `deploy/` that are made."""

import orjson

from services.metrics.export import grafana, prometheus_rules


def files() -> dict[str, str]:
    """Their texts, by name within `deploy/`."""
    return {
        "prometheus/rules.yml": prometheus_rules.text(),
        "grafana/blogstream.json": orjson.dumps(
            grafana.board(), option=orjson.OPT_INDENT_2
        ).decode()
        + "\n",
    }
