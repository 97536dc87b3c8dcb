"""Exports spans by OTLP over HTTP, configured by the standard `OTEL_*` variables.

`tracing` imports this module only where they are set.
"""

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def export_spans(service: str) -> None:
    """Export this process's spans from now on. Pending spans are sent when the process ends."""
    own = Resource.create({"service.name": f"blogstream-{service}"})
    # OTEL_SERVICE_NAME overrides the name.
    provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
