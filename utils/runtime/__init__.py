"""The process and its surroundings: errors, random streams, other processes, files, hooks and the log."""
