"""What a pull came to, for whoever asked for it: in this process, or read from the task in the store."""

from collections.abc import Mapping
from dataclasses import dataclass

from grafter.guests.sessions.poll_state import Progress
from grafter.receiver.agents_api import Reply
from grafter.store.base import Task

_ADVICE: Mapping[Reply, str] = {
    Reply.UNAUTHORIZED: "the project's api_key may not read agents' traces: it needs api.traces.read or"
    " api.agents.read, and trace export enabled for the organization",
    Reply.FAILED: "reading it failed, and is tried again; the log of the grafter that read it says why",
    Reply.NOT_FOUND: "OpenAI knows no such session in this project",
}


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a command that waited gets to know."""

    session: str
    project: str
    traces: int
    """That are new since it was asked for."""
    skipped: int
    """Traces that could not be read."""
    linked: bool
    """Its metadata names a host trace."""


class PullError(Exception):
    """The session was not read, and trying again now would not help. ``reply`` says why."""

    def __init__(self, reply: Reply, message: str) -> None:
        super().__init__(message)
        self.reply = reply


def message_of(reply: Reply) -> str:
    """For people."""
    return _ADVICE.get(reply, "OpenAI's answer is not the one that is documented")


def answer_to(task: Task, asked: int) -> Pulled | None:
    """What is stored of the event that was put at this moment, or of a later one; None while there is no answer.

    Raises PullError when OpenAI did not let it be read.
    """
    answered = Progress.decode(task.blob).answered
    if answered is None or answered.event < asked:
        return None
    if answered.outcome != Reply.OK:
        try:
            reply = Reply(answered.outcome)
        except ValueError:
            # A newer version's.
            reply = Reply.FAILED
        raise PullError(reply, message_of(reply))
    project, _, session_id = task.name.rpartition("/")
    return Pulled(session_id, project, answered.traces, answered.skipped, answered.linked)
