"""Hosted Agents sessions: what OpenAI's API answers about one, to the parts and spans of a guest."""
