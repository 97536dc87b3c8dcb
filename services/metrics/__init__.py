"""metrics: what is going on. Faust tables over results, the latest reports of workers, JSON, Prometheus and a page."""
