"""Sessions of OpenAI's Live API: what the Realtime state machine has to know beside its own events.

A Live session is a model that speaks and listens at once and gives its work away: to the Responses API, to the
Decision API, or to the app. Its wire has no turns; it has transcript fragments, dated by the session's own time, and
the events of the work that was given away. Sessions, events and memory are those of ``realtime``, and so
are the tables of what may be stored (``field_rules``, ``event_types``); here is what its events do (``talking``,
``delegating``), and what leaves of them (``utterance_spans``).
"""
