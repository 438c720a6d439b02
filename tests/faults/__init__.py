"""Faults and hostile input, family by family: what happens stands in the mark ``fault`` of each test."""
