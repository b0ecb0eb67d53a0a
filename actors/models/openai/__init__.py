"""A bigger model as a mind: what answers with tool calls behind an endpoint that speaks OpenAI's protocol."""
