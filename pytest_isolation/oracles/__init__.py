"""What must hold: each oracle reads the evidence of a phase and yields findings.

An oracle is any callable ``oracle(evidence, story)`` that yields ``Finding``s; ``story`` is what a user alone sees.
"""
