"""Spans of requests and their stages for an OpenTelemetry collector, made when a request ends.

Used only where `OTEL_EXPORTER_OTLP_ENDPOINT` is set. OpenTelemetry's own variables apply: headers, sampler, service
name, queue size. A full queue drops spans, so a slow collector never slows a request.
"""

import os
import time
from collections.abc import Mapping

from registry.extras import how_to_install
from registry.settings import InvalidSetting
from serving.front.request_context import STAGES, ProtocolName, RequestContext, StageTimes


class Tracer:
    """Raises InvalidSetting where the exporter is not installed."""

    def __init__(self) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError as error:
            raise InvalidSetting(
                "OTEL_EXPORTER_OTLP_ENDPOINT is set and the exporter is not installed: unset the variable, or "
                f"{how_to_install('tracing')}"
            ) from error
        name = os.environ.get("OTEL_SERVICE_NAME") or "headwaiter"
        self._provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("headwaiter")
        self._propagator = TraceContextTextMapPropagator()

    def record(
        self,
        context: RequestContext | None,
        fields: Mapping[str, str],
        protocol: ProtocolName,
        status: int,
        reason: str,
        stages: StageTimes,
    ) -> int:
        """Make a span of the request below the caller's, and one below it for each stage that it reached.

        Returns the trace's id, 0 for one that is not sampled.
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        carrier = {"traceparent": context.traceparent} if context and context.traceparent else {}
        began = time.time_ns() - int((time.perf_counter() - stages.began) * 1e9)
        attributes: dict[str, str | int] = {
            **{f"headwaiter.{name}": value for name, value in fields.items()},
            "headwaiter.protocol": protocol,
            "headwaiter.request_id": context.request_id if context else "",
            "http.response.status_code": status,
        }
        span = self._tracer.start_span(
            f"predict {fields['model']}".rstrip(),
            self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=began,
        )
        within, at = set_span_in_context(span), began
        for stage, seconds in zip(STAGES, stages.seconds(), strict=True):
            end = at + int(seconds * 1e9)
            if seconds > 0:
                self._tracer.start_span(stage, within, start_time=at).end(end)
            at = end
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR, reason))
        if reason:
            span.set_attribute("error.type", reason)
        if stages.side:
            span.set_attribute("headwaiter.rollout.side", stages.side)
        span.end(at)
        made = span.get_span_context()
        return made.trace_id if made.trace_flags.sampled else 0

    def close(self) -> None:
        """Send the remaining spans. Blocks, up to the exporter's timeout."""
        self._provider.shutdown()
