"""`recsys drill release`: bad bundles, killed controllers, and thousands of users who are *simulated*."""
