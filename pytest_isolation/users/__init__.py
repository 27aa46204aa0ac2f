"""Who plays: users, their canaries, what they saw."""
