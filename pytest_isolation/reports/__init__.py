"""Verdicts and findings as text: for a terminal, for a machine. No judgement is made here."""
