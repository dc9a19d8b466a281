"""Reads exported pairs with ms-swift's own loader, in its own environment; prints the rows as JSON.

python tests/clients/swift_rows.py FILE
"""

import json
import sys

from swift.dataset import load_dataset

rows, _ = load_dataset(sys.argv[1])
print(json.dumps([{name: row[name] for name in ("messages", "rejected_response", "images")} for row in rows]))
