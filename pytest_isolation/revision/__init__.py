"""``--isolation-compare-rev``: the same tests of an earlier revision, in a process beside this one."""
