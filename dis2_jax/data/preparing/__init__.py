"""How ``dis2 data prepare`` works at scale: jobs on an engine, a part per job, parts joined into shards.

Everything unfinished lies in one folder beside the dataset (``work``). ``run_job`` is what an engine runs anywhere:
it writes a part, then its summary, which makes the job done. ``shards`` cuts the records of all parts, in the order
of the jobs, into shards of equal size and reads every record back. ``finish`` writes the card and the metadata.
Which process did what, and in how many attempts, leaves no trace in the result.
"""
