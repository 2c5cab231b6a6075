"""Simulated Realtime calls whose truth is known: the oracle for every figure that grafter states.

A *world* (caller, voice detector, OpenAI's model, media, app) plays a call, an *observer* reads the socket as an app's
tap or a recorder would and posts what it saw, the *truth* says each figure of that call and whether it can be known
from the posts, and the *judge* holds what came out against it. One seed is one call.
Written from OpenAI's description of its events (types and docstrings of the ``openai`` package), not from grafter.

What the documentation leaves open is not judged, and not counted as left out either:

- *The end of a speech on the observer's clock* lies between the moment when the caller fell silent and the detector's
  stop as it was seen, less the detector's silence (later by both legs of the network). Any value in between is right.
- *First audio on WebRTC and SIP*, where audio deltas stand on the socket too: the delta or the begin of playing.
- *Where a model turn ends that calls several tools*: anywhere from the first whole call to the last.
- *An MCP tool's time* inside a caller's wait: model or tool; only the sum is judged.
- *A response asked for again after a failed one*: whether it answers the speech before; a wait that is stated must be
  the one from the end of that speech. The same for a response asked for after an answer that nobody heard.
- *A silence that the session's object does not name*: 500 ms is documented, yet a figure made with it may be left out.
- *Speech after which the app emptied its own player and sent nothing*: an interruption that no event shows.
- *An app that itself cancels when it sees the caller speak* (``interrupt_response`` off): the caller's speech
  interrupted, and the program cancelled; a barge-in may be stated or not. With nothing to cancel, and a truncate after
  the speech, it is one.
- *The button in a recorder's eyes*: it sees no client event, so neither who cut the answer nor when the speech ended.
  With media beside the socket the app does not see it either: no append shows that the cut was the caller's.
- *A server that leaves out every delta* of a function call: then there is no first token to measure to.
- *An answer that was on its way to the observer when the caller hung up*, or waited in the app's player.
- Several audio items in one answer: the documentation says that a second item is a function call: there are none here.
"""
