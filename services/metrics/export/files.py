"""The generated files in `deploy/`."""

import orjson

from services.metrics.export import grafana, prometheus_rules


def generate_files() -> dict[str, str]:
    """Return the texts by name within `deploy/`."""
    return {
        "prometheus/rules.yml": prometheus_rules.render_rules(),
        "grafana/blogstream.json": orjson.dumps(
            grafana.build_dashboard(), option=orjson.OPT_INDENT_2
        ).decode()
        + "\n",
    }
