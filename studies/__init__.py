"""Studies: grids of training runs, their results as CSV, and the tables and figures made from these alone."""
