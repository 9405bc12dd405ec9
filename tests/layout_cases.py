"""Made-up rows in the layouts of public sets and services, and the documents that they are.

`docs/make_layout_table.py` writes them into docs/input-formats.md, `test_layouts.py` reads each as JSONL and
as Parquet.
"""

from __future__ import annotations

from layout_answers import ANSWERS, PAIRS
from layout_apps import APPS
from layout_asked import ASKED as ASKED_FIRST
from layout_chats import CHATS
from layout_exchanges import EXCHANGES, EXCHANGES_ASKED
from layout_logs import LOGS
from layout_services import SERVICES

ASKED = [*ASKED_FIRST, *EXCHANGES_ASKED]
CASES = [*CHATS, *SERVICES, *LOGS, *APPS, *EXCHANGES, *ANSWERS, *PAIRS, *ASKED]
