"""What flows from prompts to preference pairs, and the stages that move it."""

EXPANDERS = {
    "grammar": "pipeline.expanders:Grammar",
    "llm": "pipeline.expanders:LLM",
}
FILTERS: dict[str, str] = {}
