"""What a network computes and costs: exact counts, energy, reports, the full-spike certificate."""
