"""Turn an archive into records; one plug-in file for each layout, named as `--layout` names it."""
