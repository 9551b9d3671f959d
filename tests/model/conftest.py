"""Put this folder's helpers, text_parts and tuning_parts, on the path of the tests in the folders below."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
