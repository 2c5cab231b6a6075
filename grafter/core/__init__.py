"""The pure core: no await, no clock, no randomness, no log, no environment.

Words, each with one meaning:

host trace    the app's own OpenTelemetry trace, named by its 16-byte trace id.
guest trace   a trace made by OpenAI or its SDKs, with ids of its own.
link          what says to which host trace a guest belongs.
anchor        the host span under which a guest's top-level spans hang.
graft         the act and the result: guest spans under the host's trace id, parents resolved, ids stable.
part          what one request brought for one trace.
whole         a guest of which nothing more is expected.
release       the moment a held trace leaves for the exporters.
memory        the little that is kept of a trace after its release, for what comes late.

The way of a trace through here: ``link`` finds the host that a guest names; ``lifecycle`` decides when the trace is
ready; ``anchor`` and ``join`` hang the guest's spans under the host; ``memory`` is what is kept of both afterwards.
How bodies become parts, and parts become guest spans, is in ``grafter/guests``. Times are Unix nanoseconds and always
arguments.
"""
