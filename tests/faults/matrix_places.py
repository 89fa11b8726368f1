"""How many places there are for what the cancellation matrix cancels, apart from the application that has them: to
import that is to install it in Hypercorn, and in the logs, of whoever imports it."""

THREADS = 8
PROCESSES = 2
SLEEP = "SELECT SLEEP(60)"
