"""The tier of the HTTP cache on disk, behind memory: a file for each answer, in a folder for each worker.

`form` is what a file has, `folder` the files of a worker and their bound, `disk` what the data path calls, `keeper`
what outlives a restart besides: the secret of the keys, and the purges. No file is touched by the thread of a loop.
"""
