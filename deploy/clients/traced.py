#!/usr/bin/env python3
"""Has one image segmented, as one trace from here through the workers and back.

    traced.py IMAGE [MODEL]

Needs the packages of deploy/observability/tracing-requirements.txt, which this Python has:
deploy/clients/find-python deploy/observability/tracing-requirements.txt

NATS_URL says where the broker is. The variables of OpenTelemetry say where spans go, such as
OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318, and what this program is called, OTEL_SERVICE_NAME.
"""

import asyncio
import os
import sys
import uuid

import msgpack
import nats
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

JOBS = "segment.jobs.{tenant}.{model}.{job}"
REPLIES = "segment.replies.{tenant}.{job}"
tracer = trace.get_tracer("traced.py")


def start_span(template, names, operation, kind):
    """A span around sending or receiving one message. Its name has the template, since each job's subject is new."""
    return tracer.start_as_current_span(
        f"{operation} {template}",
        kind=kind,
        attributes={
            "messaging.system": "nats",
            "messaging.operation.name": operation,
            "messaging.operation.type": "send" if kind is SpanKind.PRODUCER else operation,
            "messaging.destination.name": template.format(**names),
            "messaging.destination.template": template,
            "messaging.message.conversation_id": names["job"],
        },
    )


async def publish(broker, names, payload):
    # Without this header a full queue and a known job look alike.
    headers = {"Nats-Expected-Last-Subject-Sequence": "0"}
    with start_span(JOBS, names, "publish", SpanKind.PRODUCER):
        propagate.inject(headers)  # sets `traceparent`, which workers go on from
        await broker.jetstream().publish(JOBS.format(**names), payload, headers=headers)


async def receive(replies, names):
    with start_span(REPLIES, names, "receive", SpanKind.CLIENT) as span:
        message = await replies.next_msg(timeout=60)
        # The result's context is that of the worker's span which published it.
        sender = trace.get_current_span(propagate.extract(message.headers or {})).get_span_context()
        if sender.is_valid:
            span.add_link(sender)
        return msgpack.unpackb(message.data)


async def submit(path, model):
    with open(path, "rb") as file:
        payload = msgpack.packb({"v": 1, "image": file.read(), "options": {"min_area_px": 64}})
    broker = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    names = {"tenant": "public", "model": model, "job": str(uuid.uuid4())}
    with tracer.start_as_current_span("submit", attributes={"segfleet.job.id": names["job"]}) as span:
        print("trace", trace.format_trace_id(span.get_span_context().trace_id))
        # Subscribe first: the result may be there before the acknowledgement is.
        replies = await broker.subscribe(REPLIES.format(**names), max_msgs=1)
        await publish(broker, names, payload)
        result = await receive(replies, names)
        span.set_attribute("segfleet.outcome", result["status"])
        if result["status"] != "ok":
            code = result.get("error", {}).get("code", result["status"])
            span.set_attribute("error.type", code)
            span.set_status(StatusCode.ERROR)
    await broker.close()
    return result


def main(path, model="threshold"):
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    try:
        result = asyncio.run(submit(path, model))
    finally:
        provider.shutdown()  # sends what is left
    if result["status"] != "ok":
        sys.exit(f"{result['status']}: {result.get('error')}")
    print("ok:", len(result["objects"]), "objects")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__.strip())
    main(*sys.argv[1:])
