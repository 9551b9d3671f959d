"""cxr_ft: fine-tuning comparisons on chest X-rays that one can believe.

The way of the data, left to right, nothing flows back::

    archive - layouts -> records - splits -> CSVs - batches -> base + head + tuning - fit -> result JSON -> page
    |--------------------- data/ ---------------------|        |----- model/ -----|  |- run/ -|       |- show/ -|

``score/`` judges from arrays and strings alone. ``plugins`` finds parts by file name; ``cli/`` is one thin file a command.
"""

__version__ = "0.1.0"
