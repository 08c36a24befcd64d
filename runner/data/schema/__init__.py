"""The schema of a table: fields, their tokens, and what may follow what."""

from runner.data.schema.codec import DONE, Codec, Encoded, State
from runner.data.schema.slots import Slots

__all__ = ["DONE", "Codec", "Encoded", "Slots", "State"]
