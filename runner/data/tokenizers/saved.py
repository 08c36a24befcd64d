"""Any tokenizer from the files that its `to_files` wrote: those of texts, and of tables, which have such inside."""

from __future__ import annotations

from collections.abc import Mapping

from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.schema.schema import Schema
from runner.data.tokenizers.base import Tokenizer
from runner.data.tokenizers.text_kinds import TEXT_KINDS, read_tokenizer

KINDS = {
    **TEXT_KINDS,
    FieldTokenizer.kind: lambda settings, _files: FieldTokenizer(Schema.from_plain(settings["schema"])),
}


def from_files(files: Mapping[str, bytes]) -> Tokenizer:
    """The tokenizer that `to_files` wrote; names that are not a tokenizer's are ignored.

    Raises:
        TokenizerError: a file is missing or damaged, the kind or the version unknown.
    """
    return read_tokenizer(files, KINDS)
