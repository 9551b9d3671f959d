"""One thin file a command: parse, call, print. Heavy imports stay inside `main()`."""
