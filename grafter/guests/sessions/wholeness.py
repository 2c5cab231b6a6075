"""When a hosted session is whole: it ends with each event, for a turn is over then, and goes on with the next one.

What its parts name as ids and parents are not spans but promises. An event's first part names one as a parent, and the
part with which all pages of that event have been read names it as an id. So it is whole when it has ended and no
promise is open.
"""

from grafter.core.lifecycle import Wholeness

WHOLENESS = Wholeness(by_parents=True)
