"""The operations console: pages made on the server, in Chinese, for the people who run the AI of the chain.

It does what the API does, through the API's own functions. htmx exchanges parts of pages, ECharts draws; both are served from here.
"""
