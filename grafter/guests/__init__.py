"""Guest traces: what OpenAI and its SDKs say of a call, read into parts and spans. Pure; a folder a source."""
