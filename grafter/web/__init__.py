"""The lookup page: a phone number in, a call's verdict out."""
