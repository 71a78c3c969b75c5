"""The process and its surroundings: errors, options, random streams, other processes, files, hooks and the log."""
