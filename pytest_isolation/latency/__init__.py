"""Is it fast enough: samples, exact bounds, verdicts."""
