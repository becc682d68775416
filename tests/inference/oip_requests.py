"""Requests of the Open Inference Protocol, and what is made of them."""

from __future__ import annotations

import json
from typing import Any

from oip_tools import tensor_of

FP32 = tensor_of("x", "FP32", (2, 2), [1.0, 2.0, 3.0, 4.0])


BASE = {
    "inputs": [{"name": "x", "shape": [2, 2], "datatype": "INT32", "data": [1, 2, 3, 4]}],
    "outputs": [{"name": "y"}],
}


def one(**fields: Any) -> bytes:
    item = {"name": "x", "shape": [1], "datatype": "INT32", "data": [1]} | fields
    return json.dumps({"inputs": [{k: v for k, v in item.items() if v is not None}]}).encode()
