"""grafter beside a null sink and a raw proxy, in one run. Start it with ``make bench``."""
