"""What Prometheus and Grafana need to know, from the declarations of metrics and alerts."""
