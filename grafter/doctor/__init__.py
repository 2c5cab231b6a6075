"""What went wrong on the way to one trace, read from what arrived: pure findings over plain data.

A finding is a fault where the spans prove it. What may be innocent as well is a doubt, and never said as a loss.
"""
