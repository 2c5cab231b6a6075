"""The store of one process: a log of segment files, an index in memory, and one SQLite file.

How it works stands at the top of ``store``. The rooms below it:

* what is held: ``index`` over ``trace_table``, with ``placement`` and ``claims``; what owners do with it: ``settling``
* the log: ``writer``, ``segments``, ``segment_file``; read by ``part_reader``, kept small by ``compaction``
* the SQLite file: ``metadata_db``, ``memory_rows``, ``metadata_tables``
* start and stop: ``config``, ``opening``, ``directory``
"""
