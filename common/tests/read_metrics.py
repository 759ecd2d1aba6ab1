#!/usr/bin/env python3
"""Reads OpenMetrics text from standard input with the reference reader, checks names and help texts, and prints for
each metric its type, its unit and its labels.

    read_metrics.py PREFIX
"""

import json
import re
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

# Label values come from closed sets: none of these names is a job's id or a file's name.
LABELS = {"model", "version", "digest", "outcome", "code", "stage", "le"} | {
    "stream", "consumer", "reason", "part", "service", "connection",
}
UNITS = {"seconds", "bytes"}


def check(condition, message):
    if not condition:
        sys.exit(f"read_metrics: {message}")


def check_family(prefix, family):
    name = family.name
    check(name.startswith(prefix + "_"), f"{name} does not begin with {prefix}_")
    check(re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]", name), f"{name} is not in snake case")
    check(not name.endswith(("_total", "_info", "_count", "_sum", "_bucket")), f"{name} has a suffix of samples")
    check(family.documentation.endswith(".") and not family.documentation.endswith(".."), f"{name} has no help text")
    check(family.type != "unknown", f"{name} has no type")
    last = name.rsplit("_", 1)[-1]
    check((family.unit or last) == last, f"{name} does not end with its unit {family.unit}")
    check((last in UNITS) == bool(family.unit), f"{name} does not declare its unit")


def main():
    (prefix,) = sys.argv[1:]
    found = {}
    for family in text_string_to_metric_families(sys.stdin.read()):
        check(family.name not in found, f"{family.name} comes twice")
        check_family(prefix, family)
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        check(set(labels) <= LABELS, f"{family.name} has labels {labels}")
        check(family.samples, f"{family.name} has no value")
        traces = [
            sample.exemplar.labels["trace_id"]
            for sample in family.samples
            if sample.exemplar
        ]
        found[family.name] = {"type": family.type, "unit": family.unit, "labels": labels, "traces": traces}
    json.dump(found, sys.stdout)


main()
