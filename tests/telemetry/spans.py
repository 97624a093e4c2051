"""Reads what a collector was sent, by OpenTelemetry's own definition: requests in base64, one a line, on standard input.

Prints a JSON list of the spans: `service`, `name`, `id`, `parent`, `trace`, `seconds` and `attributes`.
"""

import base64
import json
import sys

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def value(any_value):
    return getattr(any_value, any_value.WhichOneof("value"))


def attributes(pairs):
    return {pair.key: value(pair.value) for pair in pairs}


spans = []
for line in sys.stdin:
    for resource in ExportTraceServiceRequest.FromString(base64.b64decode(line)).resource_spans:
        service = attributes(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                spans.append(
                    {
                        "service": service,
                        "name": span.name,
                        "id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "trace": span.trace_id.hex(),
                        "seconds": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                        "attributes": attributes(span.attributes),
                    }
                )
print(json.dumps(spans))
