"""One module per AI application: business facts -> prompt text. No SQL and no clock in here."""
