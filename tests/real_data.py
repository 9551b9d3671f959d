"""Real films and tables, for those who have them: tests that need them skip elsewhere."""

import os
from pathlib import Path

#: The folder that CXR_FT_REAL_DATA names.
REAL = Path(os.environ.get("CXR_FT_REAL_DATA", "no real data here"))
