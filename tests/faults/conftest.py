"""Fixtures that several of the fault tests share."""

from faults.served import served as served
