"""What flows from a prompt to a preference pair, and the stages that move it."""

EXPANDERS = {
    "none": "pipeline.ideas.expanders:NoExpander",
    "grammar": "pipeline.ideas.expanders:GrammarExpander",
    "llm": "pipeline.ideas.expanders:LLMExpander",
}

FILTERS = {
    "rules": "pipeline.ideas.filters:OutdoorRules",
    "llm": "pipeline.ideas.filters:LLMOutdoor",
}
