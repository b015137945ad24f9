"""A Flask view that answers with JSON: what most small services do most of the time.

Thread: worker.
"""

from __future__ import annotations

from flask import Flask, Response, jsonify

__all__ = ["application"]

application = Flask(__name__)


@application.get("/hello")
def hello() -> Response:
    """Answer the readiness check."""
    return jsonify(message="Hello, world!")


@application.get("/orders/<int:number>")
def order(number: int) -> Response:
    """Answer with a small document."""
    return jsonify(
        number=number,
        customer={"name": "Ada Lovelace", "city": "London"},
        items=[{"sku": f"A-{index}", "quantity": index, "price": "12.50"} for index in range(1, 6)],
        paid=True,
    )
