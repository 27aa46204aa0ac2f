"""How users play: each phase runs the scenario in one way and leaves evidence."""
