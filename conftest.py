"""Joins the two houses for our own suite: the plugin, and the reference backend that it tests by default."""

pytest_plugins = ["pytester"]
