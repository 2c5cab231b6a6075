"""Realtime calls: their event stream becomes guest spans by one state machine.

OpenAI exports no trace of a Realtime session, so the events are the only source. What receivers store of them is events
(``intake``, ``content``, ``stored_event``); at release they are fed, in order of their times, to the state machine
(``machine``), and what has ended leaves as spans (``spans``). Sessions of the Live API are kept and read by the same
rooms; what only they have stands in ``live``.
"""
