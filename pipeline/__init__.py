"""What flows from a prompt to a preference pair, and the stages that move it."""

EXPANDERS = {
    "none": "pipeline.expanders:NoExpander",
    "grammar": "pipeline.expanders:GrammarExpander",
    "llm": "pipeline.expanders:LLMExpander",
}

FILTERS = {
    "rules": "pipeline.filters:OutdoorRules",
    "llm": "pipeline.filters:LLMOutdoor",
}
