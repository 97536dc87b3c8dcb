"""Sends spans by OTLP over HTTP, as the standard `OTEL_*` variables say. Loaded only where they do: see `tracing`."""

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def export_spans(service: str) -> None:
    """From now on; what is not sent yet when the process ends is sent then."""
    own = Resource.create({"service.name": f"blogstream-{service}"})
    provider = TracerProvider(
        resource=own.merge(OTELResourceDetector().detect())
    )  # who sets a name, has it
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
