"""A matrix of runs, and the tables that come of it: specs -> jobs -> results -> tables.

specs JSON --> specs --> jobs --> spread (processes, or a Ray cluster) --> job: adapt, resume, score --> result JSON
                                                                                                           |
README.md, pages in docs/ <----------------------------- tables <------------------------------ results <--+

A spec holds only what differs from the defaults. A result is written once and never edited; it answers a job if it was
measured with the same settings on the same source, whatever spec asked for it.
"""
