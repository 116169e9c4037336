"""Spans for an OpenTelemetry collector, where one is named and the extra ``otel`` is installed; else nothing is done.

They are written after what they tell of, in the trace of the visit, from the entry to the topic. A collector that is away
costs spans, never work.
"""

import time
from collections.abc import Mapping
from typing import Any

from service.errors import SettingsError
from service.observe.traces import trace_id

__all__ = ["open_spans", "record_span", "spans_to"]

_NS = 1_000_000_000
_tracer: Any = None


def open_spans(role: str, endpoint: str) -> None:
    """Send spans to a collector from now on; an empty endpoint is none.

    Raises
    ------
    SettingsError
        The packages of the extra are missing.
    """
    if not endpoint:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        text = f"ALERTPROD_OTLP_ENDPOINT is set, and {error.name} is not installed: pip install 'alertprod[otel]'"
        raise SettingsError(text) from error
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=5)
    spans_to(BatchSpanProcessor(exporter, max_queue_size=2048), role)


def spans_to(processor: Any, role: str) -> None:
    """Give spans to a processor of OpenTelemetry from now on; None ends it."""
    global _tracer
    if processor is None:
        _tracer = None
        return
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider(resource=Resource.create({"service.name": f"alertprod-{role}"}))
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("alertprod")


def record_span(
    name: str,
    traceparent: str | None,
    seconds: float,
    attributes: Mapping[str, Any],
    steps: Mapping[str, float] | None = None,
) -> None:
    """Record what took `seconds` and ends now; `steps` (seconds by name, in their order) become spans inside it."""
    if _tracer is None or trace_id(traceparent) is None:
        return
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    end = time.time_ns()
    start_ns = end - int(seconds * _NS)
    parent = TraceContextTextMapPropagator().extract({"traceparent": str(traceparent)})
    given = {k: v for k, v in attributes.items() if v is not None}
    span = _tracer.start_span(name, context=parent, attributes=given, start_time=start_ns)
    inside = trace.set_span_in_context(span)
    for step, length in (steps or {}).items():
        child = _tracer.start_span(step, context=inside, start_time=start_ns)
        start_ns = min(start_ns + int(length * _NS), end)
        child.end(end_time=start_ns)
    span.end(end_time=end)
