"""The load test: many users for some time, isolation judged all the while."""
