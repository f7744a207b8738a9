"""What calls cost, in yuan, by the prices in the settings. Only for showing: limits are in tokens."""

from zqyy_ai.settings import Settings

_MILLION = 1_000_000


def cost_cny(settings: Settings, *, tokens: int, input_tokens: int, output_tokens: int) -> float:
    """Of `tokens` charged, of which input and output were reported. The rest (an estimate) counts at the dearer price."""
    input_price, output_price = settings.input_price_cny_per_million_tokens, settings.output_price_cny_per_million_tokens
    unreported = max(0, tokens - input_tokens - output_tokens)
    return (input_tokens * input_price + output_tokens * output_price + unreported * max(input_price, output_price)) / _MILLION
