"""The processes of a job: which one this is, how they meet and end, and who holds a run's folder."""
