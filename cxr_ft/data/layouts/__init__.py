"""Where records come from, one file a layout: `CARD`, `records(source) -> Records`, `demo(folder)`."""
