"""The schema of a table: fields, their tokens, and what may follow what."""

from runner.data.schema.codec import DONE, UNUSED, Codec, State
from runner.data.schema.schema import Schema
from runner.data.schema.slots import Slots

__all__ = ["DONE", "UNUSED", "Codec", "Schema", "Slots", "State"]
