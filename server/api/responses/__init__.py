"""POST /v1/responses: OpenAI's Responses API, without stored state. docs/responses.md has the fields."""
