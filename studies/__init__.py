"""Studies: grids of training runs, their results as CSV, and the tables and figures that are made of these alone."""
