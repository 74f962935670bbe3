"""Log lines of slow and failed requests, and traces of all requests if a collector is configured."""

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from serving.front.request_context import STAGES, ProtocolName, RequestContext, StageTimes

if TYPE_CHECKING:
    from serving.front.meter import FrontMeter
    from serving.front.tracing import Tracer

logger = logging.getLogger("headwaiter.request")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
SHOWN_CHARACTERS = 2000


class RequestLog:
    """slow_seconds: requests that took longer are logged. log_inputs: whether with inputs, up to SHOWN_CHARACTERS.

    Raises InvalidSetting where OpenTelemetry's variables ask for traces and the exporter is not installed.
    """

    def __init__(self, slow_seconds: float, log_inputs: bool, environ: Mapping[str, str] = os.environ) -> None:
        self._slow_seconds = slow_seconds
        self._log_inputs = log_inputs
        self._tracer = _make_tracer() if any(environ.get(name) for name in ENDPOINTS) else None

    def record(
        self,
        context: RequestContext | None,
        meter: "FrontMeter",
        protocol: ProtocolName,
        status: int,
        reason: str,
        stages: StageTimes,
    ) -> None:
        """Log and trace a request that ended. reason: of its error, or ""."""
        if self._tracer is not None:
            trace_id = self._tracer.record(context, meter.fields, protocol, status, reason, stages)
            if trace_id:
                meter.note_trace(protocol, status, stages, trace_id)
        if status >= 500 or stages.ended - stages.began >= self._slow_seconds:
            self._log(context, meter, protocol, status, reason, stages)

    async def close(self) -> None:
        """Send the remaining spans; bounded by the exporter's own timeout."""
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)

    def _log(
        self,
        context: RequestContext | None,
        meter: "FrontMeter",
        protocol: ProtocolName,
        status: int,
        reason: str,
        stages: StageTimes,
    ) -> None:
        fields: dict[str, object] = {
            "request_id": context.request_id if context else "",
            "trace_id": context.trace_id if context else "",
            **meter.fields,
            "protocol": protocol,
            "status": status,
            "reason": reason,
            "seconds": round(stages.ended - stages.began, 6),
            "stages": dict(zip(STAGES, (round(part, 6) for part in stages.seconds()), strict=True)),
        }
        if self._log_inputs:
            fields["inputs"] = repr(list(stages.items))[:SHOWN_CHARACTERS]
        level, message = (logging.ERROR, "a request failed") if status >= 500 else (logging.WARNING, "a slow request")
        logger.log(level, message, extra={"fields": fields})


def _make_tracer() -> "Tracer":
    from serving.front.tracing import Tracer

    return Tracer()
