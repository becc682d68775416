"""Jobs as the master sees them: the routes that lead to the jobs process, and the supervision of that process.

What a job is, and all that is done with one, is in `lb/jobs`.
"""
