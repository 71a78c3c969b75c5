"""The process and its surroundings: errors, options, random streams, files, hooks and the log."""
