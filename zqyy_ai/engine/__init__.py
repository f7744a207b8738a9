"""Deeds: intake of events, the guarded step, the batch of targets, and the use cases that the faces share."""
