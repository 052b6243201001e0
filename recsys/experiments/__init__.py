"""A/B tests: who sees which arm (`assignment`), and what the arms differ in (`analysis`)."""
