"""Guest traces: what OpenAI and its SDKs record of a call, read into parts and spans. Pure; a folder a source."""
