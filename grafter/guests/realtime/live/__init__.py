"""Sessions of OpenAI's Live API: what the Realtime state machine has to know beside its own events.

A Live session is a model that speaks and listens at once and gives its work away: to the Responses API, to the
Decision API, or to the app. Its wire has no turns; it has transcript fragments, dated by the session's own time, and
the events of the work that was given away. Sessions, notes and memory are those of ``realtime``; here is what its own
events do (``talking``, ``delegating``).
"""
