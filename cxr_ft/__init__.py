"""cxr_ft: fine-tuning comparisons on chest X-rays that one can believe.

The way of the data, left to right; nothing flows back::

    archive - layouts -> records - splits -> CSVs     data/
    CSVs - batches -> base + head + tuning            data/, model/
    base + head + tuning - fit -> result JSON         run/
    result JSON -> charts, page                       show/

``score/`` judges from arrays and strings alone; ``plugins`` finds parts by their files' names; ``cli/`` holds commands.
"""

__version__ = "0.1.0"
