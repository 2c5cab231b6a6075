"""The call map: which calls there were, of which numbers, how long their callers waited, and where their traces are."""
