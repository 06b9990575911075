"""The models of this deployment, in OpenAI's form and in Anthropic's."""
