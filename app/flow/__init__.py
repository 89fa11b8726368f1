"""Sluice's Trio vocabulary: what a request owns, threads under named limits, and the drain at shutdown."""
