"""Made-up rows in the layouts of public sets and services, and the documents that they are.

`docs/make_layout_table.py` writes them into docs/input-formats.md, `test_layouts.py` reads each as JSONL and
as Parquet.
"""

from __future__ import annotations

from layout_answers import ANSWERS, PAIRS
from layout_asked import ASKED
from layout_chats import CHATS
from layout_logs import LOGS
from layout_services import SERVICES

__all__ = ["ANSWERS", "ASKED", "CASES", "CHATS", "LOGS", "PAIRS", "SERVICES"]

CASES = [*CHATS, *SERVICES, *LOGS, *ANSWERS, *PAIRS, *ASKED]
