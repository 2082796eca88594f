"""CSV that no spreadsheet takes for a program."""

import csv
import io
from collections.abc import Mapping, Sequence

# Full-width signs count for as much in some spreadsheets, and so does what stands behind a line break.
_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def harmless(value: object) -> object:
    """A text that a spreadsheet would run as a formula gets an apostrophe; numbers stay as they are."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_STARTS_A_FORMULA) else value


def original(text: str) -> str:
    """What `harmless` was given."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_STARTS_A_FORMULA) else text


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as CSV; what a row lacks, or has as ``None``, is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writerow({column: harmless(column) for column in columns})
    for row in rows:
        writer.writerow({key: harmless(value) for key, value in row.items()})
    return text.getvalue()
