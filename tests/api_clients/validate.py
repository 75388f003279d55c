"""Holds what the API answered to its contract: reads {"document": ..., "values": [[SCHEMA, VALUE], ...]} from stdin.

A field that the schema of an object does not name is a fault too.
"""

import json
import sys
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker


def close(schema: Any) -> None:
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            schema["additionalProperties"] = False
        for inner in schema.values():
            close(inner)
    elif isinstance(schema, list):
        for inner in schema:
            close(inner)


given = json.load(sys.stdin)
components = given["document"]["components"]
close(components["schemas"])
faults = 0
for name, value in given["values"]:
    schema = {"$ref": f"#/components/schemas/{name}", "components": components}
    Draft202012Validator.check_schema(components["schemas"][name])
    validator = Draft202012Validator(schema, format_checker=FormatChecker())
    for fault in validator.iter_errors(value):
        faults += 1
        print(f"{name}{fault.json_path[1:]}: {fault.message}", file=sys.stderr)
print(f"{len(given['values'])} values, {faults} faults")
sys.exit(1 if faults else 0)
