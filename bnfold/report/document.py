"""The envelope of every command's JSON: which document it is, and in which version of its fields."""

import json
from typing import Any


def document(name: str, **fields: Any) -> str:
    """Give the JSON of the document `bnfold.NAME`, version 1 (docs/json.md). NaN and infinities raise ValueError."""
    return json.dumps({"format": f"bnfold.{name}", "version": 1, **fields}, indent=1, allow_nan=False)
