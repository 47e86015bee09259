"""The service of the examples, with a pool that does not wait long: `uvicorn --factory service_child:create_app`."""

import os
import sys
from importlib import import_module
from pathlib import Path

from fastapi import FastAPI

import carpool

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

TIMING = carpool.Timing(linger=0.1, max_linger=1.0, poll_min=0.1, poll_max=0.5, lookup=1.0)


def create_app() -> FastAPI:
    """Make the application."""
    pool = carpool.Pool(journal=os.environ["JOURNAL"], timing=TIMING)
    app: FastAPI = import_module("fastapi_service").create_app(pool, grace=float(os.environ["GRACE"]))
    return app
