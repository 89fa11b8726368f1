"""Many upstreams, one answer: each source by itself, so that what fails takes nothing else with it."""
