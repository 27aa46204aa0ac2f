"""``isolation profile``: the stages of a backend, each with its target and a verdict, and where the time goes."""
