"""The paper's sequence task: copy letters, translate a rare number, with a memory at every step."""
