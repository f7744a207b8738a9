"""How many tokens a call may use, guessed before it is made. Sizes the budget reservation; never what is booked after a reported usage."""

import math

# Measured on Chinese prose with DashScope's tokenizer; compact JSON takes 0.53, so that one number errs on the safe side for both.
TOKENS_PER_CHARACTER = 0.60


def estimate_tokens(prompt: str, *, overhead_tokens: int, largest_output_tokens: int) -> int:
    """Tokens to reserve: the prompt's, the application's own system prompt (`overhead_tokens`, learned) and its largest answer."""
    return math.ceil(len(prompt) * TOKENS_PER_CHARACTER) + overhead_tokens + largest_output_tokens
