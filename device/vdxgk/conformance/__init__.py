"""Conformance vectors for the physical-memory callbacks of WDDM 2.9 and later.

The vectors are data (``vectors/*.toml``), for any implementation of the
callbacks.  ``implementation`` says what one has to offer, ``runner`` runs the
vectors against it, ``page`` prints them as a page of the documentation::

    from vdxgk.conformance import load, run

    for vector in load():
        result = run(vector, implementation)
"""

from vdxgk.conformance.implementation import Answer, Call, Implementation
from vdxgk.conformance.loading import VectorError, load, load_topics
from vdxgk.conformance.runner import Result, run, run_together
from vdxgk.conformance.vector import Topic, Vector

__all__ = [
    "Answer",
    "Call",
    "Implementation",
    "Result",
    "Topic",
    "Vector",
    "VectorError",
    "load",
    "load_topics",
    "run",
    "run_together",
]
