"""People judge scrolls: what they are asked, a page to answer on, and what their answers say."""
