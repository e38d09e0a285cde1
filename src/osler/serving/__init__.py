"""The server: requests of many users in one running batch, an OpenAI-compatible API, answers with evidence, a page, a reader study."""
