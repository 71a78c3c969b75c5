"""Studies: grids of training runs, their results as CSV, and the tables that are made of these alone."""
